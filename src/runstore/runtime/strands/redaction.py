"""Predicts whether an agent's text may be changed or redacted on its way through strands.

strands does not expose its registries, so this reads private attributes.
"""

from typing import Any

from strands import Agent
from strands.hooks import AfterInvocationEvent, AfterModelCallEvent, MessageAddedEvent
from strands.middleware import ExecuteToolStage, InvokeModelStage

REWRITING = (AfterModelCallEvent, MessageAddedEvent, AfterInvocationEvent)  # hooks that may rewrite an answer
HARMLESS = ("strands.event_loop.", "strands.agent.", "strands.session.", "strands.models.", "runstore.")


def may_redact(agent: Agent) -> bool:
    """Whether the agent's guardrail redacts, or a custom hook or middleware might.

    If so, the text of an unfinished answer is withheld when its worker dies. A wrong True only withholds text
    that does not count.
    """
    config: Any = agent.model.get_config()
    if isinstance(config, dict) and config.get("guardrail_redact_output"):
        return True
    if any(each.phase != "input" for each in _middleware(agent).get(InvokeModelStage, ())):
        return True
    hooks = getattr(agent.hooks, "_registered_callbacks", {})
    callbacks = [entry.callback for cls in REWRITING for entry in hooks.get(cls, ())]
    return any(not str(getattr(callback, "__module__", "")).startswith(HARMLESS) for callback in callbacks)


def may_change(agent: Agent) -> bool:
    """Whether middleware gets the agent's stream, and so may change its text."""
    stages = {stage: handlers for stage, handlers in _middleware(agent).items() if stage != ExecuteToolStage}
    return any(each.phase == "wrap" for handlers in stages.values() for each in handlers)


def _middleware(agent: Agent) -> dict[Any, list[Any]]:
    handlers: dict[Any, list[Any]] = agent._middleware_registry._handlers
    return handlers
