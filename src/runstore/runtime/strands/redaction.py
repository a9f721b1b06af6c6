"""Whether what an agent has said may be redacted afterwards, as far as one can see beforehand."""

from typing import Any

from strands import Agent
from strands.hooks import AfterInvocationEvent, AfterModelCallEvent, MessageAddedEvent
from strands.middleware import InvokeModelStage

REWRITING = (AfterModelCallEvent, MessageAddedEvent, AfterInvocationEvent)  # hooks that may rewrite an answer
HARMLESS = ("strands.event_loop.", "strands.agent.", "strands.session.", "strands.models.", "runstore.")


def may_redact(agent: Agent) -> bool:
    """Whether its guardrail redacts, or a hook or middleware of somebody's own might.

    Should its worker die before that, what is half said is withheld. Where this is wrong, text is withheld
    that nobody counts. strands does not show what is registered, so its registries are looked into.
    """
    config: Any = agent.model.get_config()
    if isinstance(config, dict) and config.get("guardrail_redact_output"):
        return True
    middleware = getattr(getattr(agent, "_middleware_registry", None), "_handlers", {})
    if any(each.phase != "input" for each in middleware.get(InvokeModelStage, ())):
        return True
    hooks = getattr(agent.hooks, "_registered_callbacks", {})
    callbacks = [entry.callback for cls in REWRITING for entry in hooks.get(cls, ())]
    return any(not str(getattr(callback, "__module__", "")).startswith(HARMLESS) for callback in callbacks)
