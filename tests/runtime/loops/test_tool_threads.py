"""The threads of agents' blocking code: limits, waiting, and leftovers."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from runstore.runtime.loops import tool_threads
from runstore.runtime.loops.interrupts import Interrupted, importing
from runstore.runtime.loops.tool_threads import ToolThreads
from tests.kit.server import until

LIMIT = 3
DEADLINE_S = 60


class Held:
    """Calls that wait until they are let go."""

    def __init__(self, threads: ToolThreads) -> None:
        self._threads = threads
        self._go_on = threading.Event()
        self.begun = 0

    def hold(self, run_id: str, count: int = 1) -> list[Future[int]]:
        with bound_contextvars(run_id=run_id):
            return [self._threads.submit(self._wait) for _ in range(count)]

    def let_go(self) -> None:
        self._go_on.set()

    def _wait(self) -> int:
        self.begun += 1
        self._go_on.wait()
        return threading.get_ident()


@pytest.fixture
def threads() -> ToolThreads:
    return ToolThreads(LIMIT, "tool")


@pytest.fixture
def held(threads: ToolThreads) -> Iterator[Held]:
    held = Held(threads)
    yield held
    held.let_go()


@contextmanager
def interrupting_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool_threads, "INTERRUPT_S", 0)
        yield


def test_a_call_returns_and_raises_as_the_function_does(threads: ToolThreads) -> None:
    assert threads.submit(divmod, 7, 2).result(DEADLINE_S) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(divmod, 7, 0).result(DEADLINE_S)


def test_more_calls_than_the_limit_wait_for_a_place(threads: ToolThreads, held: Held) -> None:
    held.hold("a", LIMIT)
    made: list[int] = []
    waiting = [threads.submit(made.append, number) for number in range(5)]
    until(lambda: held.begun == LIMIT, "the places are taken")
    assert not any(call.done() for call in waiting)
    assert made == []
    held.let_go()
    for call in waiting:
        call.result(DEADLINE_S)
    assert sorted(made) == [0, 1, 2, 3, 4]


def test_calls_that_wait_for_a_place_are_made_in_their_order() -> None:
    threads = ToolThreads(1, "tool")  # with more places, the calls themselves could overtake each other
    held = Held(threads)
    held.hold("a")
    order: list[int] = []
    waiting = [threads.submit(order.append, number) for number in range(5)]
    held.let_go()
    for call in waiting:
        call.result(DEADLINE_S)
    assert order == [0, 1, 2, 3, 4]


def test_a_call_that_is_cancelled_while_it_waits_is_not_made(threads: ToolThreads, held: Held) -> None:
    held.hold("a", LIMIT)
    made: list[int] = []
    given_up, kept = threads.submit(made.append, 1), threads.submit(made.append, 2)
    assert given_up.cancel()
    held.let_go()
    kept.result(DEADLINE_S)
    assert made == [2]


def test_abandoned_threads_give_their_places_to_others_and_are_counted_until_they_end(
    threads: ToolThreads, held: Held
) -> None:
    stuck = held.hold("gone", LIMIT)
    until(lambda: held.begun == LIMIT, "they are stuck")
    other = threads.submit(divmod, 7, 2)
    assert threads.runs() == {"gone"}
    threads.abandon({"gone"})
    threads.abandon({"gone"})
    assert threads.abandoned == LIMIT
    assert other.result(DEADLINE_S) == (3, 1)
    held.let_go()
    for call in stuck:
        call.result(DEADLINE_S)
    until(lambda: threads.abandoned == 0, "they are counted no more")
    assert threads.runs() == set()


def test_a_run_that_is_there_keeps_its_places(threads: ToolThreads, held: Held) -> None:
    held.hold("there", LIMIT)
    until(lambda: held.begun == LIMIT, "the places are taken")
    other = threads.submit(divmod, 7, 2)
    threads.abandon({"another"})
    assert threads.abandoned == 0
    assert not other.done()


def test_a_busy_call_of_a_run_that_is_gone_is_broken_off(threads: ToolThreads) -> None:
    begun = threading.Event()

    def busy() -> None:
        begun.set()
        while True:
            pass

    with bound_contextvars(run_id="gone"):
        call = threads.submit(busy)
    assert begun.wait(DEADLINE_S)
    with interrupting_at_once():
        until(lambda: threads.abandon({"gone"}) or call.done(), "it is broken off")
    with pytest.raises(Interrupted):
        call.result()
    until(lambda: threads.abandoned == 0, "its thread has ended")


def test_a_thread_that_waits_for_an_import_is_interrupted_only_afterwards(
    threads: ToolThreads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_slowly.py").write_text("from imported_gate import gate\ngate()\n")
    monkeypatch.syspath_prepend(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def gate() -> None:
        begun.set()
        go_on.wait()

    monkeypatch.setitem(sys.modules, "imported_gate", SimpleNamespace(gate=gate))
    monkeypatch.delitem(sys.modules, "imported_slowly", raising=False)
    own: set[int] = set()

    def imports() -> Any:
        own.add(threading.get_ident())
        return import_module("imported_slowly")

    calls: list[Future[Any]] = []
    try:
        for run_id in ("imports", "gone", "waits"):
            with bound_contextvars(run_id=run_id):
                calls.append(threads.submit(imports))
            assert begun.wait(DEADLINE_S)
            until(lambda: len(importing() & own) == len(calls) - 1, "it waits")
        with interrupting_at_once():
            for _ in range(3):
                threads.abandon({"gone"})
    finally:
        go_on.set()
    assert [call.result(DEADLINE_S).__name__ for call in calls] == 3 * ["imported_slowly"]


def test_each_interrupt_looks_for_imports_that_began_after_the_one_before(
    threads: ToolThreads, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted: list[int] = []
    held.hold("gone", 2)
    until(lambda: held.begun == 2, "they are stuck")
    with monkeypatch.context() as patch:
        # The second thread begins an import once the first one is interrupted.
        every = {thread.ident for thread in threading.enumerate()}
        patch.setattr(tool_threads, "interrupt", interrupted.append)
        patch.setattr(tool_threads, "importing", lambda: every if interrupted else set())
        with interrupting_at_once():
            until(lambda: threads.abandon({"gone"}) or interrupted, "one is interrupted")
            threads.abandon({"gone"})
    assert len(interrupted) == 1


def test_an_interrupt_never_reaches_another_call(threads: ToolThreads) -> None:
    def short() -> None:
        time.sleep(0.0001)

    calls: list[Future[None]] = []
    with interrupting_at_once():
        for _ in range(300):
            with bound_contextvars(run_id="gone"):
                threads.submit(short)
            with bound_contextvars(run_id="there"):
                calls.append(threads.submit(short))
            threads.abandon({"gone"})
        for call in calls:
            assert call.result(DEADLINE_S) is None
    until(lambda: (threads.runs(), threads.abandoned) == (set(), 0), "nothing is left, nor counted")


def test_a_machine_without_more_threads_fails_the_call_and_takes_no_place(
    threads: ToolThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        refused = [threads.submit(divmod, 7, 2) for _ in range(2 * LIMIT)]
    for call in refused:
        with pytest.raises(RuntimeError, match="new thread"):
            call.result(DEADLINE_S)
    assert threads.submit(divmod, 7, 2).result(DEADLINE_S) == (3, 1)


async def test_a_tool_that_raises_what_ends_an_iterator_ends(threads: ToolThreads) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(RuntimeError, match="StopIteration: 7"):
            await asyncio.get_running_loop().run_in_executor(threads, _stop)


def _stop() -> None:
    raise StopIteration(7)
