"""Predicts whether an agent's text may be changed or redacted on its way through strands."""

from typing import Any

from strands import Agent
from strands.hooks import AfterInvocationEvent, AfterModelCallEvent, MessageAddedEvent
from strands.middleware import ExecuteToolStage, InvokeModelStage

from runstore.runtime.strands.internals import middleware_of

HARMLESS = ("strands.event_loop.", "strands.agent.", "strands.session.", "strands.models.", "runstore.")


def may_redact(agent: Agent) -> bool:
    """Whether the agent's guardrail redacts, or a custom hook or middleware might.

    If so, the text of an unfinished answer is withheld when its worker dies. A wrong True only withholds text
    that does not count.
    """
    config: Any = agent.model.get_config()
    if isinstance(config, dict) and config.get("guardrail_redact_output"):
        return True
    if any(each.phase != "input" for each in _foreign(agent, InvokeModelStage)):
        return True
    added = MessageAddedEvent(agent=agent, message={"role": "assistant", "content": []})
    return _may_rewrite(agent, AfterModelCallEvent(agent=agent), added) or may_redact_last(agent)


def may_redact_last(agent: Agent) -> bool:
    """Whether a custom hook might rewrite the agent's last answer when the agent ends."""
    return _may_rewrite(agent, AfterInvocationEvent(agent=agent))


def _may_rewrite(agent: Agent, *events: Any) -> bool:
    """Whether custom hooks get one of these events."""
    callbacks = [callback for event in events for callback in agent.hooks.get_callbacks_for(event)]
    return any(not str(getattr(callback, "__module__", "")).startswith(HARMLESS) for callback in callbacks)


def may_change(agent: Agent) -> bool:
    """Whether middleware gets the agent's stream, and so may change its text."""
    stages = [stage for stage in middleware_of(agent) if stage != ExecuteToolStage]
    return any(each.phase == "wrap" for stage in stages for each in _foreign(agent, stage))


def may_change_request(agent: Agent) -> bool:
    """Whether middleware around the model's call may change what the model is asked, or the model."""
    return any(each.phase == "wrap" for each in _foreign(agent, InvokeModelStage))


def _foreign(agent: Agent, stage: Any) -> list[Any]:
    """The handlers of a stage that are not runstore's own."""
    return [each for each in middleware_of(agent).get(stage, ()) if not _is_own(each.handler)]


def _is_own(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("runstore.")
