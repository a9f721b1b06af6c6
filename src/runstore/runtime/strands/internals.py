"""Everything private of strands that this room uses; no other file of it names a private part of strands.

strands has no public way to any of these. docs/internals/internals-of-others.md says what each is for, and
tests/docs/test_internals_of_others.py names the release that changes one. The methods that are replaced are
in `patches.py`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from strands import Agent, ModelRetryStrategy
from strands.agent.conversation_manager.compression.pin_message import apply_pin_first
from strands.hooks import BeforeToolCallEvent
from strands.tools.registry import ToolRegistry
from strands.types._events import ToolInterruptEvent as ToolInterruptEvent
from strands.types.content import Messages

CLIENT = "_get_client"  # the method of strands' classes of models that returns the provider's client
FORMATS = ("format_chunk", "_format_chunk")  # the methods that translate a provider's event


def has_session_manager(agent: Any) -> bool:
    """Whether a session manager of strands keeps the agent's messages and state."""
    return getattr(agent, "_session_manager", None) is not None


def interrupt_state_of(product: Any) -> Any:
    """The interrupts of an agent, a Graph or a Swarm, and whether it waits for their answers."""
    return product._interrupt_state


def interrupt_id_of(event: BeforeToolCallEvent, name: str) -> str:
    """The id that an interrupt with this name gets if a hook raises it for the event."""
    return event._interrupt_id(name)


def answers_object(product: Any) -> bool:
    """Whether an agent was made to answer with an object: `Agent(structured_output_model=…)`."""
    return getattr(product, "_default_structured_output_model", None) is not None


def note_first_pins(agent: Agent, own: Messages) -> None:
    """Let a conversation manager with `pin_first` pin no more messages of a memory that has its pins.

    Args:
        own: the agent's own messages, which stand before its memory and have no pins yet.
    """
    manager: Any = agent.conversation_manager
    if (first := getattr(manager, "pin_first", None)) is not None:
        apply_pin_first(own, first)
        manager._pin_first_applied = True


def middleware_of(agent: Agent) -> Mapping[Any, list[Any]]:
    """The middleware of an agent by stage; each has a `phase` and a `handler`."""
    handlers: Mapping[Any, list[Any]] = agent._middleware_registry._handlers
    return handlers


def retry_strategy_of(agent: Agent) -> Any:
    """The object that decides whether the agent's model is called again after an error."""
    return getattr(agent, "_retry_strategy", None)


def next_wait_of(strategy: ModelRetryStrategy) -> float | None:
    """Seconds that a retry strategy waits after the next failure; None: it gives up."""
    failed = strategy._current_attempt
    return None if failed + 1 >= strategy._max_attempts else float(strategy._calculate_delay(failed))


def background_of(agent: Any) -> Any:
    """The tools that an agent runs in the background; None: it does not."""
    return getattr(agent, "_background_tasks", None)


def store_task(background: Any, task: dict[str, Any]) -> None:
    """Give an agent a task of the background, whose outcome is delivered with its next model call."""
    background._store_task(task)


def has_task(background: Any, tool_use_id: str | None) -> bool:
    """Whether a tool's call is a task in the background."""
    return tool_use_id in background._tasks


def is_in_background(context: Any) -> bool:
    """Whether strands runs a tool in the background. `context`: of the middleware of its call."""
    return hasattr(context, "_background_interrupt")


def providers_of(registry: ToolRegistry) -> list[Any]:
    """The tool providers (MCP clients) of an agent's tools."""
    providers: list[Any] = registry._tool_providers
    return providers


def consumer_id_of(registry: ToolRegistry) -> Any:
    """The name of an agent's tools among the consumers of a provider."""
    return registry._registry_id


def consumers_of(provider: Any) -> set[Any]:
    """The consumers of an MCP client, which ends with the last of them. To be changed in place."""
    consumers: set[Any] = getattr(provider, "_consumers", set())
    return consumers


def startup_timeout_of(client: Any) -> float:
    """Seconds within which an MCP client must have started."""
    seconds: float = client._startup_timeout
    return seconds


def loop_of(provider: Any) -> asyncio.AbstractEventLoop | None:
    """The loop of an MCP client, in a thread of its own; None: it does not run."""
    loop: asyncio.AbstractEventLoop | None = getattr(provider, "_background_thread_event_loop", None)
    return loop
