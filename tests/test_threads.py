"""Threads for blocking calls: bounded, shared fairly, and a hanging call delays no other."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from runstore import threads as module
from runstore.core.errors import Busy
from runstore.threads import Threads, asking, in_own_thread
from tests.kit.polling import DEADLINE_S

Begun = list[str]


class Stalled:
    """Calls that hang until the test has ended; `begun` names their users."""

    def __init__(self, threads: Threads) -> None:
        self.begun: Begun = []
        self.end = threading.Event()
        self.calls: list[asyncio.Task[object]] = []
        self._threads = threads

    async def add(self, by: str, count: int = 1) -> None:
        """So many more calls of one caller, and wait until they have begun."""
        wanted = len(self.begun) + count
        for _ in range(count):
            self.queue(by)
        async with asyncio.timeout(DEADLINE_S):
            while len(self.begun) < wanted:
                await asyncio.sleep(0.001)

    def queue(self, by: str) -> None:
        def hang() -> None:
            self.begun.append(by)
            self.end.wait(DEADLINE_S)

        self.calls.append(asyncio.create_task(self._threads.call(hang, by=by)))


@asynccontextmanager
async def stalled(threads: Threads) -> AsyncIterator[Stalled]:
    calls = Stalled(threads)
    try:
        yield calls
    finally:
        calls.end.set()
        await asyncio.wait(calls.calls)
        threads.close()


async def test_a_call_that_no_thread_can_make_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = Threads("test", 2)
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", start)
        for _ in range(2):
            with pytest.raises(Busy, match="no more threads"):
                await threads.call(int, by="alice")
    assert await threads.call(int, "7", by="alice") == 7
    monkeypatch.setattr(threading.Thread, "start", start)
    assert await asyncio.gather(*(threads.call(int, "7", by="alice") for _ in range(3))) == [7, 7, 7]
    threads.close()


async def test_a_call_that_raises_what_ends_an_iterator_ends() -> None:
    async with asyncio.timeout(DEADLINE_S):
        for waiting in (Threads("test", 1).call(next, iter(())), in_own_thread(next, iter(()))):
            with pytest.raises(RuntimeError, match="StopIteration") as caught:
                await waiting
            assert isinstance(caught.value.__cause__, StopIteration)


async def test_a_call_comes_to_what_its_function_does() -> None:
    threads = Threads("test", 1)
    assert await threads.call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.call(divmod, 7, 0)
    assert await threads.call(divmod, 9, 2) == (4, 1)
    threads.close()


async def test_calls_of_one_caller_leave_a_place_for_others() -> None:
    async with stalled(threads := Threads("test", 3, share=2)) as calls:
        await calls.add("ann", 2)
        for _ in range(5):
            calls.queue("ann")
        assert await threads.call(lambda: "served", by="ben") == "served"
        assert calls.begun == ["ann", "ann"]


async def test_the_process_itself_may_have_every_place() -> None:
    async with stalled(Threads("test", 3, share=1)) as calls:
        await calls.add("", 3)
        assert calls.begun == ["", "", ""]


async def test_calls_that_come_at_once_do_not_all_wait_for_the_one_idle_thread() -> None:
    async with stalled(threads := Threads("test", 2)) as calls:
        await threads.call(lambda: None)
        async with asyncio.timeout(DEADLINE_S):
            while not threads._idle:
                await asyncio.sleep(0.001)
        await calls.add("ann", 2)


async def test_callers_take_turns() -> None:
    served: list[str] = []
    async with stalled(threads := Threads("test", 1)) as calls:
        await calls.add("ann")
        waiting = [
            asyncio.create_task(threads.call(served.append, f"{by} {number}", by=by))
            for by, number in (("ann", 1), ("ann", 2), ("ann", 3), ("ben", 1), ("ben", 2), ("cleo", 1))
        ]
        await asyncio.sleep(0)
        calls.end.set()
        await asyncio.gather(*waiting)
    assert served == ["ann 1", "ben 1", "cleo 1", "ann 2", "ben 2", "ann 3"]


async def test_work_is_done_for_the_caller() -> None:
    async with stalled(threads := Threads("test", 2, share=1)) as calls:
        await calls.add("ann")
        asking.set("ben")
        assert await threads.call(lambda: "served") == "served"


async def test_a_call_that_cannot_begin_in_time_is_refused_and_never_made() -> None:
    made: list[int] = []
    async with stalled(threads := Threads("test", 1, wait_s=0.01)) as calls:
        await calls.add("ann")
        with pytest.raises(Busy):
            await threads.call(made.append, 1, by="ben")
        calls.end.set()
        while True:  # a busy machine may take longer to begin it, too
            with suppress(Busy):
                assert await threads.call(lambda: "next", by="ben") == "next"
                break
    assert made == []


async def test_a_call_that_was_given_up_before_it_began_is_not_made() -> None:
    made: list[int] = []
    async with stalled(threads := Threads("test", 1)) as calls:
        await calls.add("ann")
        waiting = asyncio.create_task(threads.call(made.append, 1, by="ben"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        calls.end.set()
        assert await threads.call(lambda: "next", by="ben") == "next"
    assert made == []


async def test_closed_threads_take_no_calls_and_refuse_what_waits() -> None:
    async with stalled(threads := Threads("test", 1)) as calls:
        await calls.add("ann")
        waiting = asyncio.create_task(threads.call(lambda: None, by="ben"))
        await asyncio.sleep(0)
        threads.close()
        threads.close()
        with pytest.raises(Busy, match="the process is stopping"):
            await waiting
        with pytest.raises(Busy, match="the process is stopping"):
            await threads.call(lambda: None)


async def test_threads_without_work_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.01)
    threads = Threads("test-idle", 4)
    await asyncio.gather(*(threads.call(lambda: None) for _ in range(8)))
    async with asyncio.timeout(DEADLINE_S):
        while any(thread.name.startswith("test-idle") for thread in threading.enumerate()):
            await asyncio.sleep(0.01)
    assert await threads.call(lambda: "again") == "again"
    threads.close()


async def test_work_with_its_own_thread_waits_for_no_other_work() -> None:
    end = threading.Event()
    loop = asyncio.get_running_loop()
    stuck = [loop.run_in_executor(None, end.wait, DEADLINE_S) for _ in range(100)]
    assert await in_own_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(divmod, 7, 0)
    end.set()
    await asyncio.gather(*stuck)


def test_a_process_ends_though_its_threads_hang() -> None:
    program = """
import asyncio, threading
from runstore.threads import Threads, in_own_thread
begun = threading.Semaphore(0)
def hang():
    begun.release()
    threading.Event().wait()
async def main():
    threads = Threads("test", 2)
    for call in (threads.call, in_own_thread):
        asyncio.create_task(call(hang))
        await asyncio.to_thread(begun.acquire)
    print("left", flush=True)
asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "left\n")
