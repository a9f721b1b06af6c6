"""Threads for blocking calls: bounded, shared fairly, and abandoned when the process ends.

Each kind of work has its own threads, so that a stall affects only that kind. They are daemon threads: the
interpreter does not wait for a hanging one, as it does for those of `concurrent.futures`.
"""

import asyncio
import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, TypeVar

from runstore.core.errors import Busy

NO_THREAD = "the machine allows this process no more threads: see its limits of processes and memory"
IDLE_S = 10.0  # seconds without work after which a thread ends

T = TypeVar("T")

# The party that work is done for: a user, or the address of a client without a login; "" for the process
# itself.
asking: ContextVar[str] = ContextVar("asking", default="")


def raisable(error: BaseException) -> BaseException:
    """An error that asyncio can raise from a future.

    It cannot raise StopIteration, so that the waiter of the future would never be woken (cpython#112182).
    """
    if not isinstance(error, StopIteration):
        return error
    found = RuntimeError(f"StopIteration: {error.value}" if error.args else "StopIteration")
    found.__cause__ = error
    return found


class _Call:
    def __init__(self, function: Callable[[], Any], by: str) -> None:
        self.by = by
        self.future: Future[Any] = Future()
        self._function = function

    def make(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                result = self._function()
            except BaseException as error:
                self.future.set_exception(raisable(error))
                del self  # otherwise the error's traceback keeps the call, and the call the error
            else:
                self.future.set_result(result)

    def refuse(self, error: Exception) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


WAIT_S = 5.0  # seconds that a call of a request may wait for a thread before the request is refused


class Threads:
    """A number of threads whose callers take turns, each with its calls in order. Safe from any thread.

    Args:
        limit: concurrent calls.
        share: concurrent calls of one caller; the process's own calls may use all of them.
        wait_s: seconds after which a call that has not started is refused.
    """

    def __init__(
        self, name: str, limit: int, *, share: int | None = None, wait_s: float | None = None
    ) -> None:
        self._limit = limit
        self._share = share or limit
        self._wait_s = wait_s
        self._names = (f"{name}-{number}" for number in itertools.count())
        self._news = threading.Condition()
        self._lanes: dict[str, deque[_Call]] = {}  # the next caller comes first
        self._working = Counter[str]()  # running calls of each caller
        self._threads = 0
        self._idle = 0
        self._waiting = 0
        self._closed = False

    async def call(self, function: Callable[..., T], *arguments: Any, by: str | None = None) -> T:
        """Run `function(*arguments)` in one of the threads, and return its result.

        A cancelled call is not made if it has not started; otherwise it runs on and keeps its thread.

        Args:
            by: the caller; None: the one that `asking` names.

        Raises:
            Busy: it has not started within `wait_s`, or before the threads were closed, or no thread can be
                started.
        """
        future = self.submit(partial(function, *arguments), asking.get() if by is None else by)
        result = asyncio.wrap_future(future)
        try:
            if self._wait_s is not None:
                await asyncio.wait([result], timeout=self._wait_s)
                if not result.done() and future.cancel():
                    raise Busy(f"the server is busy: no free thread within {self._wait_s:g} s")
            return await result
        except asyncio.CancelledError:
            future.cancel()
            raise

    def submit(self, function: Callable[[], T], by: str) -> "Future[T]":
        """Queue a call. Raises Busy if the threads are closed, or none can be started."""
        call = _Call(function, by)
        with self._news:
            if self._closed:
                raise _closed()
            self._lanes.setdefault(by, deque()).append(call)
            self._waiting += 1
            if self._waiting > self._idle and self._threads < self._limit:
                self._start()
            if not self._threads:
                self._withdraw(call)
                raise Busy(NO_THREAD)
            self._news.notify()
        return call.future

    def close(self) -> None:
        """Refuse waiting calls with `Busy`; running ones continue. Safe to call twice."""
        with self._news:
            self._closed = True
            lanes, self._lanes, self._waiting = self._lanes, {}, 0
            self._news.notify_all()
        for lane in lanes.values():
            for call in lane:
                call.refuse(_closed())

    def _start(self) -> None:
        with suppress(RuntimeError):  # the machine allows no more threads; the existing ones must do
            threading.Thread(target=self._work, name=next(self._names), daemon=True).start()
            self._threads += 1

    def _withdraw(self, call: _Call) -> None:
        """Take back the call that was queued last by its caller."""
        self._waiting -= 1
        self._lanes[call.by].pop()
        if not self._lanes[call.by]:
            del self._lanes[call.by]

    def _work(self) -> None:
        while (call := self._take()) is not None:
            by = call.by
            call.make()
            del call  # release the result while the thread waits
            with self._news:
                self._working[by] -= 1
                if not self._working[by]:
                    del self._working[by]

    def _take(self) -> _Call | None:
        """The next call, as soon as there is one; None to end this thread."""
        with self._news:
            while (call := self._next()) is None:
                self._idle += 1
                woken = self._news.wait(IDLE_S)
                self._idle -= 1
                if self._closed or not (woken or self._lanes):
                    self._threads -= 1
                    return None
            return call

    def _next(self) -> _Call | None:
        for by, lane in self._lanes.items():
            if not by or self._working[by] < self._share:
                call = lane.popleft()
                self._waiting -= 1
                del self._lanes[by]
                if lane:
                    self._lanes[by] = lane
                self._working[by] += 1
                return call
        return None


def _closed() -> Busy:
    return Busy("the process is stopping")


async def in_own_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run a function in a thread of its own, without waiting for other work, and return its result."""
    future: Future[T] = Future()
    call = partial(copy_context().run, function, *arguments)

    def make() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(raisable(error))

    threading.Thread(target=make, name="runstore-call", daemon=True).start()
    return await asyncio.wrap_future(future)
