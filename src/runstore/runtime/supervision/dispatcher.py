"""Starting runs: each gets an attempt of this worker when a slot is free and its session's turn has come."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from runstore.core.errors import AppendRefused, SessionBusy
from runstore.core.events import Queued
from runstore.core.ports import Agent, Asked, OpenRun, RunContext
from runstore.core.times import now_ms
from runstore.runtime.attempts.history import read_start
from runstore.runtime.attempts.runner import AttemptEnd, AttemptRunner, GoesOn
from runstore.runtime.attempts.starting import Attempt, Attempts, Fresh, ToStop
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.memory.session_memory import remembering
from runstore.runtime.process.agent import ProcessAgent
from runstore.runtime.process.agent_processes import AgentProcesses
from runstore.runtime.process.own_processes import OwnProcess
from runstore.runtime.process.processes import Processes
from runstore.runtime.supervision.run_table import (
    WAITING,
    WITH_SLOT,
    EarlyRequests,
    Lost,
    Running,
    SlotKept,
    Starting,
    WaitingForSession,
    WaitingForSlot,
)
from runstore.runtime.supervision.stopper import Stopper
from runstore.runtime.supervision.worker import RunWorker, call_in

Begin = Coroutine[Any, Any, Attempt | None]  # begins an attempt, unless the run can no longer be started

log = structlog.get_logger(__name__)


class Dispatcher:
    """Fills the slots of this process.

    Args:
        shared: the processes that agents share; None: agents run in this process.
        capacity: the number of slots.
    """

    def __init__(
        self,
        worker: RunWorker,
        catalog: AgentCatalog,
        processes: Processes,
        stopper: Stopper,
        *,
        shared: AgentProcesses | None,
        capacity: int,
    ) -> None:
        self._worker = worker
        self._runs = worker.runs
        self._catalog = catalog
        self._processes = processes
        self._shared = shared
        self._stopper = stopper
        self._capacity = capacity
        self._attempts = Attempts(worker.log, worker.leases.worker_id)
        self._closed = False
        self._leaving = False
        self._runs.on_free = self.fill

    def enqueue(self, run_id: str, user_id: str, fresh: Fresh | None = None) -> None:
        """Start a queued run when a slot is free. A run that is known already keeps its state."""
        if self._capacity and self._runs.get(run_id) is None:
            if not self._takes_runs():  # then the run waits, and its input need not take memory
                fresh = None
            self._runs.move(run_id, WaitingForSlot(user_id, fresh))
        self.fill()

    def keep_slot(self, run_id: str) -> bool:
        """Keep a slot for a run that is about to be queued; False if it has to wait."""
        free = self._takes_runs() and not self._runs.count(WaitingForSlot, Lost)
        if free:
            self._runs.move(run_id, SlotKept())
        return free

    def free_slot(self, run_id: str) -> None:
        """Free the slot again, unless the run has begun."""
        self._runs.remove(run_id, SlotKept)

    def begin(self, run_id: str, user_id: str, fresh: Fresh) -> None:
        """Go on with a run that was queued and started in one append."""
        match self._runs.get(run_id):
            case SlotKept(early):
                self._begin(run_id, user_id, self._attempts.begun(run_id, fresh), early)
            case None if self._closed or self._takes_runs():  # its slot was freed: its caller waits no more
                self._begin(run_id, user_id, self._attempts.begun(run_id, fresh))
            case None:
                worker_id, at = self._worker.leases.worker_id, fresh.queued.at
                run = OpenRun(run_id, user_id, "running", 1, 0, worker_id, cancel_at=None, queued_at=at)
                self._runs.move(run_id, Lost(run, crashed=False))
            case _:
                pass  # a sweep has found it, and goes on

    async def wake(self, run_id: str) -> None:
        """Look at a run that has waited for answers: it may go on now, or has to stop."""
        head = await self._worker.log.head(run_id)
        if head is None or head.closed or not head.released:
            return
        if head.cancel_requested:
            await self._stopper.cancel(run_id)
        elif head.status == "queued" and self._capacity and not self._closed:
            self.enqueue(run_id, (await read_start(self._worker.log, run_id)).user_id)

    def take_over(self, run: OpenRun, *, crashed: bool) -> None:
        """Go on with the run of a worker that is gone, as soon as a slot is free."""
        self._runs.move(run.run_id, Lost(run, crashed))
        self.fill()

    def end(self, run_id: str) -> None:
        """A run has ended: the next one of its session may start."""
        self._runs.end(run_id)
        self.fill()

    def restart(self, run_id: str, runner: AttemptRunner) -> None:
        """Start the run's next attempt in this process, on another loop."""
        runner.abandon(handed_over=True)
        context = runner.context
        self._begin(run_id, context.user_id, self._attempts.go_on(run_id, context.attempt, "handed_over"))

    def close(self) -> None:
        """Take no more runs. Runs that this worker has already started in the log still begin."""
        self._closed = True
        for run_id in self._runs.of(*WAITING):
            self._runs.move(run_id, None)

    def leave(self) -> None:
        """Begin no more attempts: other workers go on with the runs of this one."""
        self._leaving = True

    def fill(self) -> None:
        """Start the runs that wait, as far as there are slots, and processes for their agents."""
        while self._takes_runs():
            match self._runs.next():
                case run_id, Lost(run, crashed=True):
                    self._begin(run_id, run.user_id, self._attempts.adopt(run))
                case run_id, Lost(run):
                    attempt = self._attempts.go_on(run_id, run.attempt, "handed_over")
                    self._begin(run_id, run.user_id, attempt)
                case run_id, WaitingForSlot(user_id, fresh):
                    self._begin(run_id, user_id, self._attempts.claim(run_id, fresh))
                case _:
                    return

    def _takes_runs(self) -> bool:
        return (
            not self._closed
            and self._worker.leases.held
            and (self._shared is None or self._shared.available)
            and self._runs.count(*WITH_SLOT) < self._capacity
        )

    def _begin(self, run_id: str, user_id: str, begin: Begin, early: EarlyRequests | None = None) -> None:
        early = early or EarlyRequests()
        self._runs.move(run_id, Starting(early))
        self._worker.tasks.start(run_id, self._start(run_id, user_id, begin, early))

    async def _start(self, run_id: str, user_id: str, begin: Begin, early: EarlyRequests) -> None:
        before: str | None = None
        try:
            attempt = await begin
            if attempt is not None and not self._leaving:
                self._launch(attempt, early)
        except ToStop:
            early.stop = True
        except SessionBusy as busy:
            before = busy.run_id
            self._runs.move(run_id, WaitingForSession(user_id, before))
        except AppendRefused as refusal:
            log.info("run_not_taken", run_id=run_id, reason=str(refusal))  # another worker was first
        finally:
            self._runs.remove(run_id, Starting)
            if early.stop:
                self._worker.tasks.start(run_id, self._stopper.cancel(run_id))
        if before is not None:
            head = await self._worker.log.head(before)
            if head is None or head.closed:  # its ending may have come before this run began to wait
                self.end(before)

    def _launch(self, attempt: Attempt, early: EarlyRequests) -> None:
        run_id, queued = attempt.run_id, attempt.queued
        context = RunContext(
            run_id, queued.user_id, queued.agent, queued.session_id, queued.metadata, attempt.number
        )
        loop = self._worker.loops.take("process" if self._shared else self._catalog.isolation(queued.agent))
        runner = AttemptRunner(
            self._worker.log, self._build, loop, context, queued, attempt.history, fresh=attempt.fresh
        )
        running = Running(runner)
        self._runs.move(run_id, running)
        runner.notify_added(early.added)
        with bound_contextvars(run_id=run_id):  # the attempt's tasks inherit it: for log lines of any code
            future = loop.submit(runner.run())
        server_loop = asyncio.get_running_loop()
        future.add_done_callback(lambda done: call_in(server_loop, self._finished, run_id, runner, done))
        spent_s = 0.0 if attempt.timed_from is None else max(0, now_ms() - attempt.timed_from) / 1_000
        self._stopper.set_timeouts(run_id, running, queued.definition, spent_s=spent_s)

    async def _build(self, context: RunContext, queued: Queued) -> Agent:
        context, name = await remembering(self._worker.log, context, queued), context.agent_name
        if self._catalog.isolation(name) == "process":
            own = OwnProcess(self._processes, name, self._catalog.spec_of(name, queued.definition))
            return ProcessAgent(own, context, parent=queued.traceparent)
        if self._shared is not None:
            return ProcessAgent(self._shared, context, queued.definition, parent=queued.traceparent)
        return await self._catalog.build(name, context, queued.definition)

    def _finished(self, run_id: str, runner: AttemptRunner, done: Future[AttemptEnd]) -> None:
        self._stopper.abandoned.discard(runner)
        end = None if done.cancelled() or done.exception() else done.result()
        state = self._runs.get(run_id)
        if isinstance(state, Running) and state.runner is runner:
            if type(state) is Running and not self._leaving and isinstance(end, GoesOn):
                context = runner.context
                following = self._attempts.go_on(run_id, context.attempt, end.reason)
                self._begin(run_id, context.user_id, following)
                return
            self._runs.move(run_id, None)
        if isinstance(end, Asked) and not self._closed:  # the answer, or a stop, may have come before this
            self._worker.tasks.start(run_id, self.wake(run_id))
