"""Where agents run: event loops in threads of their own, never the loop that serves HTTP."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import structlog

from runstore.runtime.tool_threads import ToolThreads

TOOL_THREADS = 1_000  # sync tools at once, as many as runs: stuck ones must not hold up the others

log = structlog.get_logger(__name__)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest kind that there is here: uvloop comes with uvicorn[standard], but not on every platform."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class AgentLoop:
    """An event loop in a daemon thread, with a pool of its own for the sync tools of its agents."""

    def __init__(self, name: str = "runstore-agents") -> None:
        self._loop = new_event_loop()
        self._stopped = False
        self._tools = ToolThreads(TOOL_THREADS, f"{name}-tool")
        self._loop.set_default_executor(self._tools)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, None]) -> "Future[None]":
        """Start a coroutine there; from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Any, *arguments: Any) -> None:
        """Call a function there, soon; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it whatever was to be told
            self._loop.call_soon_threadsafe(function, *arguments)

    def tool_runs(self) -> list[str]:
        """The run that each busy thread of the pool works for."""
        return self._tools.runs()

    def stop(self, timeout_s: float) -> bool:
        """Stop the loop; False when an agent has held it for `timeout_s` and the thread is left behind."""
        self._stopped = True
        self.call(self._loop.stop)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._stopped:
                self._run_until_stopped()
        finally:
            self._loop.close()

    def _run_until_stopped(self) -> None:
        try:
            self._loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:  # asyncio lets these end a loop: not that of others
            log.warning("agent_exited", error=repr(error))
