"""The threads that agents' blocking code runs in, which no cancel can end."""

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from structlog.contextvars import get_contextvars

P = ParamSpec("P")
T = TypeVar("T")


class ToolThreads(ThreadPoolExecutor):
    """A pool that knows for which runs its threads work: those of the tasks that gave them their work."""

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self._numbers = itertools.count()
        self._working: dict[int, str | None] = {}

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor.submit`."""
        run_id, number = get_contextvars().get("run_id"), next(self._numbers)

        def work() -> T:
            self._working[number] = run_id
            try:
                return function(*args, **kwargs)
            finally:
                del self._working[number]

        return super().submit(work)

    def runs(self) -> list[str]:
        """The run that each thread works for now."""
        return [run_id for run_id in list(self._working.values()) if run_id is not None]
