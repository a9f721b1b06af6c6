"""Leftovers of ended runs in a process: objects, tasks, threads."""

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Set

from strands import Agent

from runstore.app import Runtime, open_runtime
from runstore.demo.model import ScriptedModel
from runstore.eventlog.pending import _Lane
from runstore.feed.memory import MemorySubscription, _Channel
from runstore.feed.tail import Tail
from runstore.runtime.attempts.recorder import Recorder
from runstore.runtime.attempts.runner import AttemptRunner
from runstore.runtime.strands.agent import StrandsAgent
from runstore.runtime.strands.stream.events import Translator
from runstore.runtime.supervision.run_table import Running, Stopping
from runstore.settings import Settings
from tests.kit.polling import until

OF_A_RUN: set[type] = {
    AttemptRunner, Recorder, Tail, MemorySubscription, _Channel, Running, Stopping, _Lane,
    StrandsAgent, ScriptedModel, Translator, Agent,
}  # fmt: skip


def left_of_runs(kinds: Set[type] = OF_A_RUN) -> Counter[type]:
    """How many objects there are of each kind that belongs to a run."""
    gc.collect()
    return Counter(kind for each in gc.get_objects() if (kind := type(each)) in kinds)


def unfinished_tasks() -> int:
    """Of every event loop in the process."""
    return sum(isinstance(each, asyncio.Task) and not each.done() for each in gc.get_objects())


def thread_names() -> set[str]:
    return {thread.name.rstrip("0123456789_-") for thread in threading.enumerate()}


async def assert_nothing_left(
    settings: Settings,
    have_runs: Callable[[Runtime], Awaitable[None]],
    *,
    rounds: int,
    kinds: Set[type] = OF_A_RUN,
) -> None:
    """`have_runs` leaves nothing in a process, however often it is called."""
    before = left_of_runs(kinds)  # other tests of this process keep some
    async with open_runtime(settings) as runtime:
        tasks = unfinished_tasks()
        await have_runs(runtime)
        threads = thread_names()
        for _ in range(rounds - 1):
            await have_runs(runtime)
        await until(lambda: unfinished_tasks() == tasks)
        await until(lambda: not left_of_runs(kinds) - before)
        assert runtime.feed.followed == 0
        assert thread_names() <= threads  # an idle thread of a pool may have ended
