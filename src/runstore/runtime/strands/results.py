"""Turns the end of a strands agent, Graph or Swarm into a run's result."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from strands.agent import AgentResult as StrandsResult
from strands.multiagent.base import MultiAgentResult, NodeResult, Status
from strands.types.content import Message

from runstore.core.errors import AgentError, RunstoreError
from runstore.core.folds.transcript import message_text, tool_text
from runstore.runtime.memory.oversized import text_result
from runstore.runtime.memory.resume import is_unsigned
from runstore.runtime.strands.errors import agent_error

# Several SDKs read a web page as an answer without text and without usage.
NO_ANSWER = "the model's answer was empty and used no tokens: does its address belong to this provider?"
# strands does not say why it ended a Graph or a Swarm of which no node failed.
LIMITS = {
    "Graph": "it reached max_node_executions or execution_timeout, or a hook cancelled a node",
    "Swarm": "it reached max_handoffs, max_iterations or execution_timeout, or a hook cancelled a node",
}
ONLY_REASONING = "the model's answer has only reasoning: it was cut off"


def result_of(
    ended: StrandsResult | MultiAgentResult | None,
    model_errors: Collection[BaseException] = (),
    conversations: Iterable[Sequence[Message]] = (),
) -> dict[str, Any]:
    """The run's result. Where tool results end the run, and the model said nothing, they are its text.

    Args:
        model_errors: errors that models raised, to distinguish a model's failure from its node's.
        conversations: the messages of each agent, after the run.

    Raises:
        AgentError: a node failed, or the model's answer ended after its reasoning, or was empty. A model that
            has called tools may have nothing to add.
    """
    if ended is None:
        raise AgentError("the agent's stream ended without a result")
    if isinstance(ended, MultiAgentResult):
        return _multi_agent_result(ended, model_errors, conversations)
    counted = ended.metrics.accumulated_usage["totalTokens"]
    empty = not ended.message["content"] and not counted and ended.stop_reason == "end_turn"
    if empty and not _answers_tools(ended.message, conversations):
        raise AgentError(NO_ANSWER, code="model_invalid_answer")
    if ended.message["content"] and all(map(is_unsigned, ended.message["content"])):
        raise AgentError(ONLY_REASONING, code="model_invalid_answer")
    return _result(ended, conversations)


def cut_result(message: Message | None) -> dict[str, Any]:
    """The result of an agent whose answer was cut by its model's token limit."""
    return {**text_result(message_text(message or {})), "stop_reason": "max_tokens"}


def _result(ended: StrandsResult, conversations: Iterable[Sequence[Message]]) -> dict[str, Any]:
    text = message_text(ended.message)
    if not text and ended.structured_output is None:
        text = _tool_text_after(ended.message, conversations)
    result = {**text_result(text), "stop_reason": ended.stop_reason}
    if ended.structured_output is not None:
        result["structured_output"] = ended.structured_output.model_dump(mode="json")
    return result


def _answers_tools(message: Message, conversations: Iterable[Sequence[Message]]) -> bool:
    """Whether a message ends a conversation right after the results of tools."""
    return any(
        len(messages) > 1
        and messages[-1] == message
        and any("toolResult" in block for block in messages[-2]["content"])
        for messages in conversations
    )


def _tool_text_after(message: Message, conversations: Iterable[Sequence[Message]]) -> str:
    """The text of the tool results that end a conversation right after a message."""
    for messages in conversations:
        if len(messages) > 1 and messages[-2] == message:
            return tool_text(messages[-1])
    return ""


def _multi_agent_result(
    ended: MultiAgentResult,
    model_errors: Collection[BaseException],
    conversations: Iterable[Sequence[Message]],
) -> dict[str, Any]:
    if ended.status is not Status.COMPLETED:
        failed = {node_id: node for node_id, node in ended.results.items() if _failed(node)}
        for node_id, node in failed.items():
            if isinstance(node.result, RunstoreError):
                raise node.result
            failure = agent_error(_cause(node), model_errors)
            raise AgentError(f"node {node_id!r} failed: {failure}", code=failure.code)
        kind = type(ended).__name__.removesuffix("Result")
        raise AgentError(f"the {kind} ended as {ended.status.value}: {LIMITS.get(kind, 'it has no result')}")
    last = [agent for node in ended.results.values() for agent in node.get_agent_results()][-1:]
    return _result(last[0], conversations) if last else {**text_result(""), "stop_reason": "end_turn"}


def _failed(node: NodeResult) -> bool:
    return node.status is not Status.COMPLETED


def _cause(node: NodeResult) -> BaseException:
    if isinstance(node.result, Exception):
        return node.result
    return AgentError(f"it ended as {node.status.value}")
