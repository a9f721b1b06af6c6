"""How a strands agent, Graph or Swarm ended, in the words of a run."""

from typing import Any

from strands.agent import AgentResult as StrandsResult
from strands.multiagent.base import MultiAgentResult, NodeResult, Status
from strands.types.exceptions import (
    ContextWindowOverflowException,
    EventLoopException,
    MaxTokensReachedException,
    ModelThrottledException,
    StructuredOutputException,
)

from runstore.core.errors import AgentError, RunstoreError
from runstore.runtime.result_text import text_result
from runstore.runtime.resume import text_of

MAX_MESSAGE = 1_000  # characters of an error's text
CODES: dict[type[BaseException], str] = {
    ModelThrottledException: "model_throttled",
    ContextWindowOverflowException: "context_overflow",
    MaxTokensReachedException: "max_tokens",
    StructuredOutputException: "structured_output_failed",
}


def result_of(ended: StrandsResult | MultiAgentResult | None) -> dict[str, Any]:
    """The run's result.

    Raises:
        AgentError: it was no success: a node failed, or a tool or hook asks for a person's answer.
    """
    if ended is None:
        raise AgentError("the agent's stream ended without a result")
    if isinstance(ended, MultiAgentResult):
        return _multi_agent_result(ended)
    if ended.stop_reason == "interrupt":
        names = ", ".join(interrupt.name for interrupt in ended.interrupts or ())
        raise AgentError(
            f"the agent asks for a person's answer (interrupt {names}), which a run cannot get",
            code="interrupted",
        )
    result = {**text_result(text_of(ended.message)), "stop_reason": ended.stop_reason}
    if ended.structured_output is not None:
        result["structured_output"] = ended.structured_output.model_dump(mode="json")
    return result


def agent_error(error: BaseException, model_error: BaseException | None) -> RunstoreError:
    """A strands error as ours; one of ours that went through strands comes out as it was.

    Args:
        model_error: what a model raised last, to tell the model's failures from the agent's.
    """
    while isinstance(error, EventLoopException):
        error = error.original_exception
    if isinstance(error, RunstoreError):
        return error
    codes = (code for cls, code in CODES.items() if isinstance(error, cls))
    code = next(codes, "model_error" if error is model_error else "agent_error")
    return AgentError(one_line(error), code=code)


def one_line(error: BaseException) -> str:
    """An exception in a line that a person can read."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_MESSAGE] if text else type(error).__name__


def _multi_agent_result(ended: MultiAgentResult) -> dict[str, Any]:
    if ended.status is not Status.COMPLETED:
        failed = {node_id: node for node_id, node in ended.results.items() if _failed(node)}
        for node_id, node in failed.items():
            if isinstance(node.result, RunstoreError):
                raise node.result
            raise AgentError(f"node {node_id!r} failed: {one_line(_cause(node))}")
        raise AgentError(f"the {type(ended).__name__.removesuffix('Result')} ended as {ended.status.value}")
    last = [agent for node in ended.results.values() for agent in node.get_agent_results()][-1:]
    text = text_of(last[0].message) if last else ""
    return {**text_result(text), "stop_reason": last[0].stop_reason if last else "end_turn"}


def _failed(node: NodeResult) -> bool:
    return node.status is not Status.COMPLETED


def _cause(node: NodeResult) -> BaseException:
    if isinstance(node.result, Exception):
        return node.result
    return AgentError(f"it ended as {node.status.value}")
