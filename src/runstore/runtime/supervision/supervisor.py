"""Owns the runs of a process: starts queued ones, stops cancelled ones, takes over those of dead workers.

It acts on the log: at once by the live feed, and by a sweep if the feed has lost something.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import structlog

from runstore.core.errors import LogUnavailable
from runstore.core.events import CancelRequested, InputGiven, Queued, Started
from runstore.core.ports import Committed, LiveFeed, RunLog
from runstore.core.run import owner_of
from runstore.core.threads import in_own_thread
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.leases.leases import Leases
from runstore.runtime.loops.agent_loops import AgentLoops
from runstore.runtime.process.processes import Processes
from runstore.runtime.providers import wait_until_closed
from runstore.runtime.supervision.dispatcher import Dispatcher
from runstore.runtime.supervision.loop_watch import LoopWatch
from runstore.runtime.supervision.run_table import (
    Running,
    RunTable,
    Starting,
    Stopping,
    WaitingForSession,
    WaitingForSlot,
)
from runstore.runtime.supervision.stopper import Stopper
from runstore.runtime.supervision.sweep import Sweep
from runstore.runtime.supervision.worker import RunTasks, Worker, call_in

SWEEP_S = 0.5  # seconds between two sweeps
LOOK_S = 0.25  # seconds between two checks of the agents' loops
HEAD_START_S = 0.02  # average head start of the least busy process, in seconds, if all hear of a queued run
HAND_OVER_S = 0.3  # seconds for agents to close their resources when their runs are handed over
LOOP_STOP_S = 0.5  # seconds for the agents' loops to stop when the process leaves
CLOSING_S = 5.0  # seconds for agents' resources, such as MCP servers, to close when the process leaves

log = structlog.get_logger(__name__)


class Supervisor:
    """Runs up to `capacity` agents at once. With 0 it only ends runs that are to stop.

    Args:
        grace_s: seconds from a cancel's commit to the run's ending.
    """

    def __init__(
        self,
        event_log: RunLog,
        feed: LiveFeed,
        catalog: AgentCatalog,
        leases: Leases,
        *,
        capacity: int = 1_000,
        grace_s: float = 2.0,
    ) -> None:
        self._feed = feed
        self._leases = leases
        self._capacity = capacity
        self._draining = False
        self._tasks = RunTasks()
        self._loops = AgentLoops()
        self.processes = Processes()
        self._runs = RunTable(release=lambda runner: self._loops.release(runner.loop))
        worker = Worker(event_log, leases, self._loops, self._runs, self._tasks)
        self._stopper = Stopper(worker, grace_s=grace_s)
        self._dispatcher = Dispatcher(worker, catalog, self.processes, self._stopper, capacity=capacity)
        self._loop_watch = LoopWatch(worker, self._dispatcher, self._stopper)
        self._sweep = Sweep(worker, self._dispatcher, self._stopper, grace_s=grace_s)

    @property
    def worker_id(self) -> str:
        """This worker's name in the log."""
        return self._leases.worker_id

    @property
    def runs_agents(self) -> bool:
        """Whether it takes runs at all."""
        return self._capacity > 0

    @property
    def running(self) -> int:
        """The number of runs that this process drives."""
        return self._runs.count(Running, Stopping)

    @property
    def waiting(self) -> int:
        """The number of runs that wait for a slot or for their session, or are being started."""
        return self._runs.count(WaitingForSlot, WaitingForSession, Starting)

    @property
    def forced(self) -> int:
        """The number of runs that were closed by force."""
        return self._stopper.forced

    @property
    def abandoned(self) -> int:
        """The number of agents that go on although their run was taken from them."""
        return len(self._stopper.abandoned)

    @property
    def abandoned_threads(self) -> int:
        """The number of threads that still work for a run that has ended, or left this process."""
        return self._loops.abandoned + self._loops.tools.abandoned

    @property
    def blocked_loops(self) -> int:
        """How often an agent has blocked its loop."""
        return self._loops.blocked

    async def __aenter__(self) -> Self:
        if self._capacity:
            await self._leases.hold()
        self._server_loop = asyncio.get_running_loop()
        self._feed.listen(self._listen)
        self._watchers = [
            asyncio.create_task(self._repeat(SWEEP_S, self.sweep)),
            asyncio.create_task(self._repeat(LOOK_S, self._loop_watch.look)),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.drain(0)

    async def drain(self, within_s: float) -> None:
        """Take no more runs, wait for ours, hand over those that are not done in time. Safe to call twice."""
        if self._draining:
            return
        self._draining = True
        for watcher in self._watchers:
            watcher.cancel()
        self._dispatcher.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._runs.until_idle(), within_s)
        for run_id, running in self._runs.driven().items():
            log.info("run_handed_over", run_id=run_id)
            running.runner.abandon(handed_over=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._runs.until_idle(), HAND_OVER_S)
        for runner in (*self._stopper.abandoned, *(each.runner for each in self._runs.driven().values())):
            runner.let_go()
        await in_own_thread(self._loops.stop, LOOP_STOP_S)
        await in_own_thread(self.processes.close)
        await self._leases.release()
        await in_own_thread(wait_until_closed, CLOSING_S)

    async def sweep(self) -> None:
        """Look after all open runs in the log once.

        Raises:
            LogUnavailable
        """
        await self._sweep.sweep()

    async def _repeat(self, every_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except LogUnavailable:
                pass  # the writer logs it, and nothing can be done until the log is back
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(every_s)

    def _listen(self, commit: Committed) -> None:
        call_in(self._server_loop, self._hear, commit)

    def _hear(self, commit: Committed) -> None:
        for event in commit.events:
            if event.type == Queued.type:
                wait_s = self._head_start_s() if commit.remote else 0
                enqueue = self._dispatcher.enqueue
                self._server_loop.call_later(wait_s, enqueue, commit.run_id, owner_of(event).user_id)
            elif event.type == InputGiven.type:
                wait_s = self._head_start_s() if commit.remote else 0
                self._server_loop.call_later(wait_s, self._wake, commit.run_id)
            elif event.type == Started.type:
                self._runs.remove(commit.run_id, WaitingForSlot)
            elif event.ends:
                self._dispatcher.end(commit.run_id)
            elif event.type == CancelRequested.type:
                self._tasks.start(commit.run_id, self._stopper.cancel(commit.run_id))

    def _wake(self, run_id: str) -> None:
        if not self._draining:
            self._tasks.start(run_id, self._dispatcher.wake(run_id))

    def _head_start_s(self) -> float:
        """The head start of other processes for a run that all have heard of: busy ones wait longer."""
        return HEAD_START_S * (random.random() + self.running / (self.running + 20))
