"""The parts of a process that its supervision works with."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog
from msgspec import Struct

from runstore.core.errors import LogUnavailable
from runstore.core.ports import RunLog
from runstore.runtime.leases.leases import Leases
from runstore.runtime.loops.agent_loops import AgentLoops
from runstore.runtime.supervision.run_table import RunTable

log = structlog.get_logger(__name__)


class RunTasks:
    """Work for runs beside the agents': its errors are logged, and the next sweep tries again."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._done(run_id, task))

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LogUnavailable):
            log.error("supervisor_failed", run_id=run_id, error=repr(error), exc_info=error)


class RunWorker(Struct, frozen=True):
    """The runs of one process, and their loops.

    Args:
        leases: the lease of this worker, and its view of other leases.
        loops: where its agents run.
    """

    log: RunLog
    leases: Leases
    loops: AgentLoops
    runs: RunTable
    tasks: RunTasks


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call a function on the loop, soon. Safe to call from any thread, also when the loop is closed."""
    with suppress(RuntimeError):  # closed: the process is leaving
        loop.call_soon_threadsafe(function, *arguments)
