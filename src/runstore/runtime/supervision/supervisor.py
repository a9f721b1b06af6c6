"""Owns the runs of a process: claims queued ones, stops those that are to stop, adopts those of the dead.

What it knows it has from the log: by the live feed at once, and by a sweep when the feed lost it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog
from msgspec import Struct, field
from structlog.contextvars import bound_contextvars

from runstore.core.errors import AppendRefused, LogUnavailable, SessionBusy
from runstore.core.events import Cancelled, CancelRequested, Event, Failed, Queued, Started
from runstore.core.ports import Agent, Committed, EventLog, LiveFeed, OpenRun, RunContext
from runstore.core.threads import in_own_thread
from runstore.runtime.attempt_runner import AttemptRunner
from runstore.runtime.attempts import Attempt, Attempts, ToStop
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.history import owner_of, read_cancellation
from runstore.runtime.leases.leases import Leases
from runstore.runtime.loops import AgentLoop, AgentLoops
from runstore.runtime.process.agent import ProcessAgent
from runstore.runtime.process.processes import Processes
from runstore.runtime.providers import wait_until_closed
from runstore.runtime.supervision.fair_queue import FairQueue
from runstore.runtime.supervision.session_waiters import SessionWaiters

SWEEP_S = 0.5
LOOK_S = 0.25  # between two looks at the agents' loops
MOVE_S = 5.0  # after which the other runs of a blocked loop go on elsewhere
HEAD_START_S = 0.02
MAX_SWEPT = 2_000  # open runs that one sweep looks at, without those that a living worker has
LEAVE_S = 1.0  # for an agent to end after its run was closed over its head, before its loop is retired
PATIENCE_S = 0.5  # beyond the grace period, before another process's cancel is enforced from here
HAND_OVER_S = 0.3  # for agents that are handed over to close what they have open
LOOP_STOP_S = 0.5
CLOSING_S = 5.0  # for what agents held, as MCP servers, to be gone when the process leaves

log = structlog.get_logger(__name__)


class _Active(Struct):
    """A run that this process drives."""

    runner: AttemptRunner
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    stopping: bool = False


class Supervisor:
    """Runs up to `capacity` agents at once; with 0 it only sees to it that runs end that are to stop.

    `grace_s`: seconds from a cancel's commit to the run's ending.
    """

    def __init__(
        self,
        event_log: EventLog,
        feed: LiveFeed,
        catalog: AgentCatalog,
        leases: Leases,
        *,
        capacity: int = 1_000,
        grace_s: float = 2.0,
    ) -> None:
        self._log = event_log
        self._feed = feed
        self._catalog = catalog
        self._leases = leases
        self._attempts = Attempts(event_log, leases.worker_id)
        self._capacity = capacity
        self._grace_s = grace_s
        self._active: dict[str, _Active] = {}
        self._starting: dict[str, bool] = {}  # run id → whether it is to stop as soon as it has started
        self._lost: dict[str, tuple[OpenRun, bool]] = {}  # to adopt, ahead of the queue; True: after a crash
        self._queue = FairQueue()  # of runs that wait for a place
        self._turns = SessionWaiters()  # queued runs whose session another one has
        self._strays: set[str] = set()  # runs that are ours by the log, but that we do not drive
        self._cancels_seen: dict[str, float] = {}  # when we first saw the cancel of another's run, our clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # a run has started or finished
        self._draining = False
        self._abandoned: set[AttemptRunner] = set()  # whose run was closed over their head, and who go on
        self.processes = Processes()
        self.forced = 0  # runs that had to be closed over their agent's head

    @property
    def worker_id(self) -> str:
        """By which the log calls this worker."""
        return self._leases.worker_id

    @property
    def runs_agents(self) -> bool:
        """Whether it takes runs at all."""
        return self._capacity > 0

    @property
    def running(self) -> int:
        """How many runs this process drives."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """How many runs wait for a place or for their turn in a session, or are being started."""
        return len(self._queue) + len(self._starting) + len(self._turns)

    @property
    def abandoned(self) -> int:
        """How many agents go on although their run was closed over their head."""
        return len(self._abandoned)

    @property
    def abandoned_threads(self) -> int:
        """How many threads still work for a run that has ended, or left us."""
        return self._loops.abandoned + self._loops.tools.abandoned

    @property
    def blocked_loops(self) -> int:
        """How often an agent has held its loop for longer than it should."""
        return self._loops.blocked

    async def __aenter__(self) -> Self:
        if self._capacity:
            await self._leases.hold()
        self._main = asyncio.get_running_loop()
        self._loops = AgentLoops()
        self._feed.listen(self._listen)
        self._watchers = [
            asyncio.create_task(self._repeat(SWEEP_S, self._sweep)),
            asyncio.create_task(self._repeat(LOOK_S, self._look_at_loops)),
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
        self._queue.clear()
        self._lost.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._until_idle(), within_s)
        for run_id, active in self._active.items():
            log.info("run_handed_over", run_id=run_id)
            active.runner.abandon(handed_over=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._until_idle(), HAND_OVER_S)
        for runner in (*self._abandoned, *(active.runner for active in self._active.values())):
            runner.let_go()
        await in_own_thread(self._loops.stop, LOOP_STOP_S)
        await in_own_thread(self.processes.close)
        await self._leases.release()
        await in_own_thread(wait_until_closed, CLOSING_S)

    async def _until_idle(self) -> None:
        while self._active or self._starting:
            self._changed.clear()
            await self._changed.wait()

    # What is to be done: heard from the feed at once, or found by the sweep.

    def _listen(self, commit: Committed) -> None:
        self._call(self._hear, commit)

    def _hear(self, commit: Committed) -> None:
        for event in commit.events:
            if event.type == Queued.type:
                wait_s = self._head_start_s() if commit.remote else 0
                self._main.call_later(wait_s, self._enqueue, commit.run_id, owner_of(event))
            elif event.type == Started.type:
                self._queue.remove(commit.run_id)
            elif event.ends:
                self._queue.remove(commit.run_id)
                self._end_turn(commit.run_id)
            elif event.type == CancelRequested.type:
                self._do(commit.run_id, self._cancel(commit.run_id))

    def _head_start_s(self) -> float:
        """What others get to take a run that all have heard of: the more we have, the longer."""
        return HEAD_START_S * (random.random() + self.running / (self.running + 20))

    async def _repeat(self, every_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except LogUnavailable:
                pass  # the writer tells of it; nothing can be done until the log is back
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(every_s)

    async def _sweep(self) -> None:
        workers = await self._log.workers()
        dead = await self._leases.dead(workers)
        await self._end_turns()
        strays = await self._compare_ours()
        queued = self._queue.runs()
        found = await self._log.open_runs(limit=MAX_SWEPT, exclude_workers=workers - dead.keys())
        if len(found) < MAX_SWEPT:
            for run_id in queued - {run.run_id for run in found if run.worker_id is None}:
                self._queue.remove(run_id)  # the feed lost that another has taken it
        now = time.monotonic()
        self._cancels_seen = {
            run.run_id: self._cancels_seen.get(run.run_id, now) for run in found if run.cancel_at is not None
        }
        self._lost.clear()
        for run in strays:
            self._look_after(run, True, now)
        for run in found:
            self._look_after(run, dead.get(run.worker_id or ""), now)
        await self._leases.forget(workers)

    async def _end_turns(self) -> None:
        """End the turns of runs whose ending the feed has lost."""
        waited = self._turns.waited_for()
        for run_id in waited - (await self._log.open_attempts(waited)).keys():
            self._end_turn(run_id)

    async def _compare_ours(self) -> list[OpenRun]:
        """Leave the runs that we drive, but do not have by the log any more.

        Returns those that we have, but do not drive: seen so twice, they are lost.
        """
        driven = dict(self._active)
        ours = {run.run_id: run for run in await self._log.runs_of(self.worker_id)}
        for run_id in driven.keys() - ours.keys():
            self._do(run_id, self._leave(run_id, driven[run_id]))
        missed = {run_id for run_id in ours if run_id not in self._active and run_id not in self._starting}
        self._strays, missed_twice = missed, missed & self._strays
        return [ours[run_id] for run_id in missed_twice]

    def _look_after(self, run: OpenRun, crashed: bool | None, now: float) -> None:
        """`crashed`: how the worker that had the run has gone; None when it has not."""
        ours = run.run_id in self._active or run.run_id in self._starting
        driven = ours or (run.worker_id is not None and crashed is None)
        if run.cancel_at is not None:
            if ours or not driven:
                self._do(run.run_id, self._cancel(run.run_id, lost=crashed is not None))
            elif now - self._cancels_seen[run.run_id] > self._grace_s + PATIENCE_S:
                self._do(run.run_id, self._force(run.run_id))
        elif run.worker_id is None:
            if run.run_id not in self._turns:
                self._enqueue(run.run_id, run.user_id)
        elif not driven:
            self._lost[run.run_id] = (run, bool(crashed))
            self._claim_next()

    async def _leave(self, run_id: str, active: _Active) -> None:
        """Let go of a run that has ended, or goes on, elsewhere: its agent may say nothing for long."""
        head, attempt = await self._log.head(run_id), active.runner.context.attempt
        if self._active.get(run_id) is not active or active.runner.written:
            return
        if head is None or head.closed:
            log.info("run_lost", run_id=run_id, reason="it has ended elsewhere")
            self._abandon(run_id, active)
        elif head.attempt > attempt:
            log.info("run_lost", run_id=run_id, reason=f"attempt {head.attempt} has begun elsewhere")
            self._abandon(run_id, active, handed_over=True)

    def _abandon(self, run_id: str, active: _Active, *, handed_over: bool = False) -> None:
        """Go on without an agent, which may take its time to leave, or stay."""
        self._abandoned.add(active.runner)  # until its task has ended
        active.runner.abandon(handed_over=handed_over)
        self._let_go(run_id, active)
        self._claim_next()
        self._changed.set()

    # Starting runs.

    def _enqueue(self, run_id: str, user_id: str) -> None:
        if self._capacity and run_id not in self._active and run_id not in self._starting:
            self._queue.add(run_id, user_id)
            self._claim_next()

    def _claim_next(self) -> None:
        while (self._lost or self._queue) and not self._full() and not self._draining:
            if self._lost:
                run, crashed = self._lost.pop(next(iter(self._lost)))
                again = (
                    self._attempts.adopt(run)
                    if crashed
                    else self._attempts.take_over(run.run_id, run.attempt)
                )
                self._begin(run.run_id, run.user_id, again)
            else:
                run_id, user_id = self._queue.take()
                self._begin(run_id, user_id, self._attempts.claim(run_id))

    def _full(self) -> bool:
        return len(self._active) + len(self._starting) >= self._capacity or not self._leases.held

    def _begin(self, run_id: str, user_id: str, start: Coroutine[Any, Any, Attempt | None]) -> None:
        self._starting[run_id] = False
        self._do(run_id, self._start(run_id, user_id, start))

    async def _start(self, run_id: str, user_id: str, start: Coroutine[Any, Any, Attempt | None]) -> None:
        before: str | None = None
        try:
            attempt = await start
            if (
                attempt is not None and not self._draining
            ):  # else it goes on elsewhere, with what we hand over
                self._launch(attempt)
        except ToStop:
            self._starting[run_id] = True
        except SessionBusy as busy:
            before = busy.run_id
        except AppendRefused as refusal:
            log.info("run_not_taken", run_id=run_id, reason=str(refusal))  # another was first
        finally:
            if self._starting.pop(run_id):
                self._do(run_id, self._cancel(run_id))
            self._claim_next()
            self._changed.set()
        if before is not None:
            await self._wait_for_turn(run_id, user_id, before)

    async def _wait_for_turn(self, run_id: str, user_id: str, before: str) -> None:
        self._turns.wait(run_id, user_id, before)
        head = await self._log.head(before)
        if head is None or head.closed:  # its ending may have come before we began to wait
            self._end_turn(before)

    def _end_turn(self, run_id: str) -> None:
        for waiting, user_id in self._turns.end(run_id):
            self._enqueue(waiting, user_id)

    def _launch(self, attempt: Attempt) -> None:
        run_id, queued = attempt.run_id, attempt.queued
        context = RunContext(
            run_id, queued.user_id, queued.agent, queued.session_id, queued.metadata, attempt.number
        )
        loop = self._loops.take(self._catalog.isolation(queued.agent))
        runner = AttemptRunner(self._log, self._build, loop, context, queued, attempt.history)
        active = self._active[run_id] = _Active(runner)
        with bound_contextvars(run_id=run_id):  # in the attempt's tasks: for what anybody logs there
            future = loop.submit(runner.run())
        future.add_done_callback(lambda _: self._call(self._finished, run_id, runner))
        if timeout_s := queued.definition.get("run_timeout_s"):
            timeout = Failed(code="timeout", message=f"the run took longer than {timeout_s} s")
            active.timers["run"] = self._main.call_later(timeout_s, self._stop, run_id, active, timeout)
        if idle_s := queued.definition.get("idle_timeout_s"):
            self._watch_idle(run_id, active, idle_s, idle_s)

    async def _build(self, context: RunContext, definition: Mapping[str, Any]) -> Agent:
        name = context.agent_name
        if self._catalog.isolation(name) == "process":
            return ProcessAgent(self.processes, self._catalog.spec(name), context)
        return await self._catalog.build(name, context, definition)

    def _finished(self, run_id: str, runner: AttemptRunner) -> None:
        self._abandoned.discard(runner)
        active = self._active.get(run_id)
        if active is not None and active.runner is runner:
            self._let_go(run_id, active)
            self._claim_next()
        self._changed.set()

    def _let_go(self, run_id: str, active: _Active) -> None:
        del self._active[run_id]
        self._loops.release(active.runner.loop)
        for timer in active.timers.values():
            timer.cancel()

    # Ending runs.

    async def _cancel(self, run_id: str, *, lost: bool = False) -> None:
        """Stop a run of ours, or close one that nobody drives: a worker that lives stops its own."""
        if run_id in self._starting:
            self._starting[run_id] = True
            return
        ending = await read_cancellation(self._log, run_id)
        active = self._active.get(run_id)
        if active is not None:
            self._stop(run_id, active, ending)
        elif lost or await self._waits(run_id):
            self._queue.remove(run_id)
            self._lost.pop(run_id, None)
            await self._close(run_id, ending)

    async def _waits(self, run_id: str) -> bool:
        head = await self._log.head(run_id)
        return head is not None and not head.closed and not head.attempt

    def _stop(self, run_id: str, active: _Active, ending: Event) -> None:
        if not active.stopping:
            active.stopping = True
            active.runner.stop(ending)
            active.timers["force"] = self._main.call_later(
                self._grace_s, lambda: self._do(run_id, self._force(run_id, ending))
            )

    def _watch_idle(self, run_id: str, active: _Active, idle_s: float, left_s: float) -> None:
        def look() -> None:
            left_s = idle_s - active.runner.idle_s
            if left_s > 0:
                self._watch_idle(run_id, active, idle_s, left_s)
            else:
                idle = Failed(code="timeout", message=f"the agent said nothing for {idle_s} s")
                self._stop(run_id, active, idle)

        active.timers["idle"] = self._main.call_later(left_s, look)

    async def _force(self, run_id: str, ending: Event | None = None) -> None:
        """Close a run over its agent's head; what the agent says later is refused by the log."""
        ending = ending or await read_cancellation(self._log, run_id)
        if isinstance(ending, Cancelled):
            ending = msgspec.structs.replace(ending, forced=True)
        if await self._close(run_id, ending):
            self.forced += 1
            log.warning("run_forced", run_id=run_id, ending=ending.type)
        if active := self._active.get(run_id):
            self._abandon(run_id, active)

    async def _close(self, run_id: str, ending: Event) -> bool:
        """Append an ending, whoever drives the run; False when it has one."""
        try:
            await self._log.append(run_id, [ending], patient=True)
        except AppendRefused:
            return False
        return True

    # Agents that hold their loop, or do not leave it.

    async def _look_at_loops(self) -> None:
        for blocked in self._loops.look():
            if blocked.stack is not None:
                log.warning("loop_blocked", run_id=blocked.run_id, stack=blocked.stack)
            self._loops.retire(blocked.loop)
            if blocked.silent_s >= MOVE_S and blocked.run_id is not None:
                self._move_others(blocked.loop, blocked.run_id)
        self._abandoned = {runner for runner in self._abandoned if runner.loop.alive}
        for runner in self._abandoned:
            if runner.abandoned_s >= LEAVE_S:
                runner.let_go()
                self._loops.retire(runner.loop)
        self._loops.interrupt()
        self._loops.tools.abandon(self._loops.tools.runs() - self._active.keys())

    def _move_others(self, loop: AgentLoop, culprit: str) -> None:
        """Let the runs that share a loop with one that holds it go on elsewhere, each in a new attempt."""
        for run_id, active in list(self._active.items()):
            if active.runner.loop is loop and run_id != culprit and not active.stopping:
                log.warning("run_moved", run_id=run_id, blocked_by=culprit)
                active.runner.abandon(handed_over=True)
                self._let_go(run_id, active)
                context = active.runner.context
                again = self._attempts.take_over(run_id, context.attempt)
                self._begin(run_id, context.user_id, again)

    # Tasks and threads.

    def _do(self, run_id: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._done(run_id, task))

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, LogUnavailable):  # then the next sweep tries again
            log.error("supervisor_failed", run_id=run_id, error=repr(error), exc_info=error)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the main loop is closed: the process is leaving
            self._main.call_soon_threadsafe(function, *arguments)
