"""Threads for agents' blocking code, which a cancel cannot end."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

from structlog.contextvars import get_contextvars

from runstore.runtime.loops.interrupts import Interrupted, drop_interrupt, importing, interrupt
from runstore.threads import raisable

TOOL_THREADS = 1_000  # concurrent sync tools, as many as runs, so that stuck ones do not block others
INTERRUPT_S = 5.0  # seconds for a blocking tool to end after its run

P = ParamSpec("P")
T = TypeVar("T")


class _Call:
    """One call, and the run of the task that made it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.run_id: str | None = get_contextvars().get("run_id")
        self.future: Future[Any] = Future()
        self.thread_id = 0  # while it may be interrupted
        self.abandoned_at: float | None = None
        self.interrupted = False
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = Interrupted()

    def make(self) -> None:
        try:
            self._result = self._function()
            self._error = None
        except BaseException as error:
            self._error = error

    def settle(self) -> None:
        """Give the caller what `make` found. An interrupt in here would leave the future locked."""
        if self._error is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(raisable(self._error))


class ToolThreads(ThreadPoolExecutor):
    """A thread for each call: a stuck one is abandoned, and takes no place that another needs.

    It is a ThreadPoolExecutor only by type, as event loops accept no other. Up to `limit` calls run at once,
    the others wait. Safe to use from any thread. `abandoned`: threads still working for a run that is gone.
    """

    def __init__(self, limit: int, name: str) -> None:
        super().__init__(1)
        self._limit = limit
        self._names = (f"{name}-{number}" for number in itertools.count())
        self._lock = threading.Lock()
        self._working: set[_Call] = set()
        self.abandoned = 0
        self._waiting: deque[_Call] = deque()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor.submit`."""
        call = _Call(partial(function, *args, **kwargs))
        with self._lock:
            self._waiting.append(call)
            self._start_next()
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Does nothing: the loops that share these threads close one by one, and the threads are daemons."""

    def abandon(self, gone: Set[str]) -> None:
        """Free the places of threads whose runs are gone; interrupt them later."""
        now = time.monotonic()
        with self._lock:
            for call in self._working:
                if call.run_id in gone and call.thread_id:
                    if call.abandoned_at is None:
                        call.abandoned_at = now
                        self.abandoned += 1
                    elif now - call.abandoned_at > INTERRUPT_S and call.thread_id not in importing():
                        call.interrupted = True
                        interrupt(call.thread_id)
            self._start_next()

    def runs(self) -> set[str]:
        """The runs that threads currently work for."""
        with self._lock:
            return {call.run_id for call in self._working if call.run_id is not None}

    def _start_next(self) -> None:
        while self._waiting and len(self._working) - self.abandoned < self._limit:
            call = self._waiting.popleft()
            thread = threading.Thread(target=self._work, args=(call,), name=next(self._names), daemon=True)
            self._working.add(call)
            try:
                thread.start()
            except RuntimeError as error:  # the machine allows no more threads
                self._working.remove(call)
                if call.future.set_running_or_notify_cancel():
                    call.future.set_exception(error)

    def _work(self, call: _Call) -> None:
        if call.future.set_running_or_notify_cancel():
            call.thread_id = threading.get_ident()
            with suppress(Interrupted):
                call.make()
            while call.thread_id:
                with suppress(Interrupted):  # it may come just after the call's end
                    self._end_interrupts(call)
            call.settle()
        self._leave(call)

    def _end_interrupts(self, call: _Call) -> None:
        with self._lock:
            if call.interrupted:
                drop_interrupt()  # no new one can come while this thread has the lock
            call.thread_id = 0

    def _leave(self, call: _Call) -> None:
        with self._lock:
            self._working.remove(call)
            self.abandoned -= call.abandoned_at is not None
            self._start_next()
