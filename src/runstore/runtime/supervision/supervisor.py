"""Owns the runs of a process: starts queued ones, stops cancelled ones, takes over those of dead workers.

It acts on the log: at once by the live feed, and by a sweep if the feed has lost something.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Set
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from msgspec import Struct

from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import ConfigError, LogUnavailable
from runstore.core.events import CancelRequested, InputAdded, InputGiven, Queued, Started
from runstore.core.ports import Committed, LiveFeed, RunLog
from runstore.core.run import owner_of
from runstore.runtime.attempts.starting import Fresh
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.holders import CLOSING_S, wait_until_closed
from runstore.runtime.leases.leases import Leases
from runstore.runtime.loops.agent_loops import STOP_S, AgentLoop, AgentLoops
from runstore.runtime.loops.loop_watch import LOOPS_CHECK_S, LoopWatch
from runstore.runtime.process.agent_processes import AgentProcesses
from runstore.runtime.process.messages import Open
from runstore.runtime.process.processes import Processes
from runstore.runtime.supervision.dispatcher import Dispatcher
from runstore.runtime.supervision.run_table import (
    WAITING,
    Running,
    RunTable,
    SlotKept,
    Starting,
    Stopping,
    WaitingForSlot,
)
from runstore.runtime.supervision.stopper import Stopper
from runstore.runtime.supervision.sweep import Sweep
from runstore.runtime.supervision.worker import RunTasks, RunWorker, call_in
from runstore.threads import in_own_thread

SWEEP_S = 0.5  # seconds between two sweeps
HEAD_START_S = 0.02  # average head start of the least busy process, in seconds, if all hear of a queued run
HAND_OVER_S = 0.3  # seconds for agents to close their resources when their runs are handed over

log = structlog.get_logger(__name__)

decode_started = msgspec.json.Decoder(Started).decode


class Shared(Struct, frozen=True):
    """The processes that agents share: see `AgentProcesses`."""

    count: int
    settings: Open
    max_abandoned_threads: int


class Supervisor:
    """Runs up to `capacity` agents at once. With 0 it only ends runs that are to stop.

    Args:
        grace_s: seconds from a cancel's commit to the run's ending.
        shared: the number of processes that agents share, and how these build agents; None: the agents are
            at work in this process.
        on_unusable: called, on another thread, if the code of an agent cannot be used by such a process.
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
        shared: "Shared | None" = None,
        on_unusable: Callable[[ConfigError], None] = lambda error: None,
    ) -> None:
        self._feed = feed
        self._leases = leases
        self._capacity = capacity
        self._draining = False
        self._tasks = RunTasks()
        self._head_starts: dict[str, asyncio.TimerHandle] = {}  # runs to take soon, unless others do
        self._loops = AgentLoops()
        self.processes = Processes()
        self._runs = RunTable(release=lambda runner: self._loops.release(runner.loop))
        worker = RunWorker(event_log, leases, self._loops, self._runs, self._tasks)
        self._stopper = Stopper(worker, grace_s=grace_s)
        self.shared = self._share(shared, on_unusable) if shared is not None and capacity else None
        self._dispatcher = Dispatcher(
            worker, catalog, self.processes, self._stopper, shared=self.shared, capacity=capacity
        )
        self._loop_watch = LoopWatch(self._loops, _Driven(worker, self._dispatcher, self._stopper))
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
        return self._runs.count(*WAITING, SlotKept, Starting)

    @property
    def forced(self) -> int:
        """The number of runs that were closed by force."""
        return self._stopper.forced

    @property
    def abandoned(self) -> int:
        """The number of agents that go on although their run was taken from them."""
        return len(self._stopper.abandoned) + (self.shared.abandoned_agents if self.shared else 0)

    @property
    def abandoned_threads(self) -> int:
        """The number of threads that still work for a run that has ended, or left this process."""
        elsewhere = self.shared.abandoned_threads if self.shared else 0
        return self._loops.abandoned + self._loops.tools.abandoned + elsewhere

    @property
    def blocked_loops(self) -> int:
        """How often an agent has blocked its loop."""
        return self._loops.blocked + (self.shared.blocked_loops if self.shared else 0)

    async def __aenter__(self) -> Self:
        self._server_loop = asyncio.get_running_loop()
        if self._capacity:
            await self._leases.hold()
        self._feed.listen(self._listen)
        if self.shared is not None:
            self.shared.start()
        self._watchers = [
            asyncio.create_task(self._repeat(SWEEP_S, self.sweep)),
            asyncio.create_task(self._repeat(LOOPS_CHECK_S, self._loop_watch.look)),
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
        self._dispatcher.leave()
        for run_id, running in self._runs.driven().items():
            log.info("run_handed_over", run_id=run_id)
            running.runner.abandon(handed_over=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._runs.until_idle(), HAND_OVER_S)
        for runner in (*self._stopper.abandoned, *(each.runner for each in self._runs.driven().values())):
            runner.let_go()
        if self.shared is not None:
            await in_own_thread(self.shared.close)
        await in_own_thread(self._loops.stop, STOP_S)
        await in_own_thread(self.processes.close)
        await self._leases.release()
        await in_own_thread(wait_until_closed, CLOSING_S)

    def keep_slot(self, run_id: str) -> EncodedEvent | None:
        """See `Slots.keep_slot`. From any loop."""
        if asyncio.get_running_loop() is not self._server_loop or not self._dispatcher.keep_slot(run_id):
            return None
        return encode(Started(worker_id=self.worker_id, attempt=1, reason="claimed"))

    def free_slot(self, run_id: str) -> None:
        """See `Slots.free_slot`."""
        self._dispatcher.free_slot(run_id)

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
            except OSError as error:  # the machine's, such as too many open files
                log.error("sweep_failed", error=str(error))
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(every_s)

    def _share(self, shared: "Shared", on_unusable: Callable[[ConfigError], None]) -> AgentProcesses:
        return AgentProcesses(
            self.processes,
            self._loops,
            shared.settings,
            count=shared.count,
            max_abandoned_threads=shared.max_abandoned_threads,
            on_change=lambda: call_in(self._server_loop, self._dispatcher.fill),
            on_unusable=on_unusable,
        )

    def _listen(self, commit: Committed) -> None:
        self._notify_added(commit)
        call_in(self._server_loop, self._take, commit)

    def _notify_added(self, commit: Committed) -> None:
        """Notify a run's agent of an added message at once, on the writer's thread.

        So in this process no model call that begins after the message was acknowledged misses it.
        """
        for seq, event in enumerate(commit.events, commit.first_seq):
            if event.type == InputAdded.type:
                state = self._runs.get(commit.run_id)
                if isinstance(state, SlotKept | Starting):
                    state.early.added = seq
                    state = self._runs.get(commit.run_id)  # it may have begun to run just now
                if isinstance(state, Running):
                    state.runner.notify_added(seq)

    def _take(self, commit: Committed) -> None:
        for seq, event in enumerate(commit.events, commit.first_seq):
            if event.type == Queued.type:
                self._queue(commit, seq, event)
            elif event.type == InputGiven.type:
                wait_s = self._head_start_s() if commit.remote else 0
                self._after(wait_s, commit.run_id, self._wake)
            elif event.type == Started.type:
                self._forget(commit.run_id)
                self._runs.remove(commit.run_id, WaitingForSlot)
            elif event.ends:
                self._forget(commit.run_id)
                self._dispatcher.end(commit.run_id)
            elif event.type == CancelRequested.type:
                self._tasks.start(commit.run_id, self._stopper.cancel(commit.run_id))

    def _queue(self, commit: Committed, seq: int, queued: EncodedEvent) -> None:
        enqueue, user_id = self._dispatcher.enqueue, owner_of(queued).user_id
        if starts := [event for event in commit.events if event.type == Started.type]:
            if self._claimed(starts[0]):  # otherwise a program's own run
                self._dispatcher.begin(commit.run_id, user_id, Fresh(seq, queued))
            return
        if commit.remote:
            self._after(self._head_start_s(), commit.run_id, enqueue, user_id)
        else:
            enqueue(commit.run_id, user_id, Fresh(seq, queued))

    def _claimed(self, started: EncodedEvent) -> bool:
        """Whether this worker has the attempt; of another process's event the data is missing."""
        return bool(started.data) and decode_started(started.data).worker_id == self.worker_id

    def _wake(self, run_id: str) -> None:
        if not self._draining:
            self._tasks.start(run_id, self._dispatcher.wake(run_id))

    def _after(self, wait_s: float, run_id: str, function: Callable[..., None], *arguments: str) -> None:
        def call() -> None:
            self._head_starts.pop(run_id, None)
            function(run_id, *arguments)

        self._forget(run_id)
        self._head_starts[run_id] = self._server_loop.call_later(wait_s, call)

    def _forget(self, run_id: str) -> None:
        if timer := self._head_starts.pop(run_id, None):
            timer.cancel()

    def _head_start_s(self) -> float:
        """The head start of other processes for a run that all have heard of: busy ones wait longer."""
        return HEAD_START_S * (random.random() + self.running / (self.running + 20))


class _Driven:
    """The port `RunningAttempts`, for the agents of this process."""

    def __init__(self, worker: RunWorker, dispatcher: Dispatcher, stopper: Stopper) -> None:
        self._runs = worker.runs
        self._dispatcher = dispatcher
        self._stopper = stopper

    def ids(self) -> Set[str]:
        return self._runs.driven().keys()

    def on(self, loop: AgentLoop) -> list[str]:
        return [run_id for run_id, running in self._runs.of(Running).items() if running.runner.loop is loop]

    def move(self, run_id: str) -> None:
        self._dispatcher.restart(run_id, self._runs.of(Running)[run_id].runner)

    def let_go(self) -> None:
        self._stopper.let_go()
