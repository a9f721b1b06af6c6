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
from runstore.runtime.strands.internals import (
    consumer_id_of,
    consumers_of,
    loop_of,
    providers_of,
    startup_timeout_of,
)

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
        if new and providers_of(self):  # the agent's construction failed, so close its providers here
            close(self)
        raise
    finally:
        if providers_of(self) and (held := HELD.get()) is not None:
            held.add(self)


def cleanup(self: ToolRegistry, **kwargs: Any) -> None:
    """`ToolRegistry.cleanup`; a provider that does not end in time is aborted."""
    if providers_of(self):
        with _within(CLOSE_S, partial(_break_off_unused, self)):
            _cleanup(self, **kwargs)


def finalize(self: Agent) -> None:
    """`Agent.__del__`; closes providers on another thread, so that the garbage collector's does not wait."""
    registry = self.__dict__.get("tool_registry")  # missing if the constructor raised
    if registry is not None and providers_of(registry) and not sys.is_finalizing():
        close(registry)


def has_providers(agent: Agent) -> bool:
    """Whether the agent holds providers that must be closed."""
    return bool(providers_of(agent.tool_registry))


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
    for provider in providers_of(registry):
        if not consumers_of(provider) - {consumer_id_of(registry)}:
            _break_off(provider)


def _break_off(provider: Any) -> None:
    """Cancel everything that an MCP client waits for, such as a server that never answers."""
    loop = loop_of(provider)
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
            if consumer_id in consumers_of(self):
                remove_consumer(self, consumer_id, **kwargs)

    async def load(self: Any, **kwargs: Any) -> Sequence[Any]:
        # Blocking here is safe: this runs on the loop of its own thread. A start that times out keeps
        # waiting.
        within_s = startup_timeout_of(self) + CLOSE_S
        with lock_of(self), _within(within_s, partial(_break_off, self)):
            consumers = set(consumers_of(self))
            try:
                tools: Sequence[Any] = await load_tools(self, **kwargs)
                return tools
            except CancelledError as cut_off:
                silent = f"the MCP server did not list its tools within {within_s:g} s"
                raise TimeoutError(silent) from cut_off
            finally:
                consumers_of(self).update(consumers)  # a failed start forgets the agents that wait for theirs

    client.add_consumer, client.remove_consumer, client.load_tools = add, remove, load
