"""Threads for what blocks: bounded, shared fairly, and left behind when the process ends.

Each kind of work has threads of its own, so that what stalls holds up its own kind alone. They are daemons:
the interpreter does not wait for one that hangs, as it does for those of `concurrent.futures`.
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

IDLE_S = 10.0  # after which a thread without work ends

T = TypeVar("T")

# Whom work is done for: a user, or the address of who has not logged in; "" for the process itself.
asking: ContextVar[str] = ContextVar("asking", default="")


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
                self.future.set_exception(error)
                del self  # else the error's traceback keeps the call, and the call the error
            else:
                self.future.set_result(result)

    def refuse(self, error: Exception) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Threads:
    """A number of threads whose callers take turns, each with its calls in order. Safe from any thread.

    Args:
        places: calls at once.
        share: those of one caller; the process's own may have all.
        wait_s: after which a call that has not begun is refused.
    """

    def __init__(
        self, name: str, places: int, *, share: int | None = None, wait_s: float | None = None
    ) -> None:
        self._places = places
        self._share = share or places
        self._wait_s = wait_s
        self._names = (f"{name}-{number}" for number in itertools.count())
        self._news = threading.Condition()
        self._lanes: dict[str, deque[_Call]] = {}  # whose turn it is comes first
        self._working = Counter[str]()  # calls of each caller
        self._threads = 0
        self._idle = 0
        self._waiting = 0
        self._closed = False

    async def call(self, function: Callable[..., T], *arguments: Any, by: str | None = None) -> T:
        """What `function(*arguments)` comes to, in one of the threads.

        A call that is given up before it has begun is not made; one that has begun goes on, and keeps its
        place.

        Args:
            by: who calls; None: whoever `asking` names.

        Raises:
            Busy: it has not begun within `wait_s`, or before the threads were closed.
        """
        future = self.submit(partial(function, *arguments), asking.get() if by is None else by)
        result = asyncio.wrap_future(future)
        try:
            if self._wait_s is not None:
                await asyncio.wait([result], timeout=self._wait_s)
                if not result.done() and future.cancel():
                    raise Busy(f"too many requests of this kind: this one waited for {self._wait_s:g} s")
            return await result
        except asyncio.CancelledError:
            future.cancel()
            raise

    def submit(self, function: Callable[[], T], by: str) -> "Future[T]":
        """Queue a call. Raises Busy when the threads were closed."""
        call = _Call(function, by)
        with self._news:
            if self._closed:
                raise _closed()
            self._lanes.setdefault(by, deque()).append(call)
            self._waiting += 1
            if self._waiting > self._idle and self._threads < self._places:
                self._start()
            self._news.notify()
        return call.future

    def close(self) -> None:
        """Refuse what waits, with `Busy`; what has begun goes on. Safe to call twice."""
        with self._news:
            self._closed = True
            lanes, self._lanes, self._waiting = self._lanes, {}, 0
            self._news.notify_all()
        for lane in lanes.values():
            for call in lane:
                call.refuse(_closed())

    def _start(self) -> None:
        with suppress(RuntimeError):  # the machine gives no more threads: those that there are have to do
            threading.Thread(target=self._work, name=next(self._names), daemon=True).start()
            self._threads += 1

    def _work(self) -> None:
        while (call := self._take()) is not None:
            by = call.by
            call.make()
            del call  # what it came to is not kept while there is nothing to do
            with self._news:
                self._working[by] -= 1
                if not self._working[by]:
                    del self._working[by]

    def _take(self) -> _Call | None:
        """The next call, once there is one; None: this thread is to end."""
        with self._news:
            while (call := self._next()) is None:
                self._idle += 1
                told = self._news.wait(IDLE_S)
                self._idle -= 1
                if self._closed or not (told or self._lanes):
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
    """What a function comes to in a thread made for it, which waits for no other work."""
    future: Future[T] = Future()
    call = partial(copy_context().run, function, *arguments)

    def make() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=make, name="runstore-call", daemon=True).start()
    return await asyncio.wrap_future(future)
