"""Work for runs beside the supervisor's own: its errors are logged, and the next sweep tries again."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from runstore.core.errors import LogUnavailable

log = structlog.get_logger(__name__)


class RunTasks:
    """Keeps the tasks until they are done."""

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


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call a function on the loop, soon. Safe to call from any thread, also when the loop is closed."""
    with suppress(RuntimeError):  # closed: the process is leaving
        loop.call_soon_threadsafe(function, *arguments)
