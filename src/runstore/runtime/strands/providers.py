"""Tool providers of strands agents (MCP clients): their end blocks no thread, and runs may share one.

strands closes a provider with its last agent, in `Agent.__del__`, on any thread where the garbage collector
runs; that thread then waits for seconds. strands has no hook for this, nor for new agents. So these methods
of its classes are replaced once for all agents of the process (`patches.py`); each docstring names the
difference.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from strands import Agent
from strands.tools.registry import ToolRegistry

from runstore.runtime.holders import HELD, close

CLOSE_S = 5.0  # seconds for a provider to end by itself; an MCP server gets 4 of them to exit
MCP = "strands.tools.mcp.mcp_client"  # imported only in processes that use an MCP client

_process_tools = ToolRegistry.process_tools
_cleanup = ToolRegistry.cleanup


def process_tools(self: ToolRegistry, tools: list[Any]) -> list[str]:
    """`ToolRegistry.process_tools`; the current attempt also remembers registries that hold providers."""
    if MCP in sys.modules:
        _let_be_shared(sys.modules[MCP].MCPClient)
    new = not self.registry
    try:
        return _process_tools(self, tools)
    except BaseException:
        if new and self._tool_providers:  # the agent's construction failed, so close its providers here
            close(self)
        raise
    finally:
        if self._tool_providers and (held := HELD.get()) is not None:
            held.add(self)


def cleanup(self: ToolRegistry, **kwargs: Any) -> None:
    """`ToolRegistry.cleanup`; a provider that does not end in time is aborted."""
    if self._tool_providers:
        with _within(CLOSE_S, partial(_break_off_unused, self)):
            _cleanup(self, **kwargs)


def finalize(self: Agent) -> None:
    """`Agent.__del__`; closes providers on another thread, so that the garbage collector's does not wait."""
    registry = self.__dict__.get("tool_registry")  # missing if the constructor raised
    if registry is not None and registry._tool_providers and not sys.is_finalizing():
        close(registry)


def has_providers(agent: Agent) -> bool:
    """Whether the agent holds providers that must be closed."""
    return bool(agent.tool_registry._tool_providers)


@contextmanager
def _within(seconds: float, break_off: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, break_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _break_off_unused(registry: ToolRegistry) -> None:
    for provider in registry._tool_providers:
        if not getattr(provider, "_consumers", set()) - {registry._registry_id}:
            _break_off(provider)


def _break_off(provider: Any) -> None:
    """Cancel everything that an MCP client waits for, such as a server that never answers."""
    loop: asyncio.AbstractEventLoop | None = getattr(provider, "_background_thread_event_loop", None)
    if loop is not None:
        with suppress(RuntimeError):  # the loop has just been closed
            loop.call_soon_threadsafe(_cancel_all, loop)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def _let_be_shared(client: Any) -> None:
    """Serialise how agents join and leave an MCP client.

    Otherwise the last agent to leave may stop the client while another joins, and two that join at once would
    both start it.
    """
    if hasattr(client, "_runstore_shared"):
        return
    client._runstore_shared = True
    add_consumer, remove_consumer, load_tools = client.add_consumer, client.remove_consumer, client.load_tools

    def lock_of(self: Any) -> threading.RLock:
        lock: threading.RLock = vars(self).setdefault("_runstore_lock", threading.RLock())
        return lock

    def add(self: Any, consumer_id: Any, **kwargs: Any) -> None:
        with lock_of(self):
            add_consumer(self, consumer_id, **kwargs)

    def remove(self: Any, consumer_id: Any, **kwargs: Any) -> None:
        with lock_of(self):
            # It may have left already, and another may have started the client since.
            if consumer_id in self._consumers:
                remove_consumer(self, consumer_id, **kwargs)

    async def load(self: Any, **kwargs: Any) -> Sequence[Any]:
        # Blocking here is safe: this runs on the loop of its own thread. A start that times out keeps
        # waiting.
        with lock_of(self), _within(self._startup_timeout + CLOSE_S, partial(_break_off, self)):
            consumers = set(self._consumers)
            try:
                tools: Sequence[Any] = await load_tools(self, **kwargs)
                return tools
            except CancelledError as cut_off:
                silent = f"the MCP server did not list its tools within {self._startup_timeout + CLOSE_S:g} s"
                raise TimeoutError(silent) from cut_off
            finally:
                self._consumers |= consumers  # a failed start forgets the agents that wait for theirs

    client.add_consumer, client.remove_consumer, client.load_tools = add, remove, load
