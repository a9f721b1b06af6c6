"""Starting runs: each gets an attempt of this worker when a slot is free and its session's turn has come."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from runstore.core.errors import AppendRefused, SessionBusy
from runstore.core.events import Queued
from runstore.core.ports import Agent, OpenRun, RunContext
from runstore.runtime.attempts.history import read_queued
from runstore.runtime.attempts.runner import AttemptRunner
from runstore.runtime.attempts.starting import Attempt, Attempts, ToStop
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.memory.session_memory import remembering
from runstore.runtime.process.agent import ProcessAgent
from runstore.runtime.process.processes import Processes
from runstore.runtime.supervision.run_table import (
    WAITING,
    WITH_SLOT,
    Lost,
    Running,
    Starting,
    WaitingForSession,
    WaitingForSlot,
)
from runstore.runtime.supervision.stopper import Stopper
from runstore.runtime.supervision.worker import Worker, call_in

log = structlog.get_logger(__name__)


class Dispatcher:
    """Fills the slots of this process.

    Args:
        capacity: the number of slots.
    """

    def __init__(
        self, worker: Worker, catalog: AgentCatalog, processes: Processes, stopper: Stopper, *, capacity: int
    ) -> None:
        self._worker = worker
        self._runs = worker.runs
        self._catalog = catalog
        self._processes = processes
        self._stopper = stopper
        self._capacity = capacity
        self._attempts = Attempts(worker.log, worker.leases.worker_id)
        self._closed = False
        self._runs.on_free = self._fill

    def enqueue(self, run_id: str, user_id: str) -> None:
        """Start a queued run when a slot is free. A run that is known already keeps its state."""
        if self._capacity and self._runs.get(run_id) is None:
            self._runs.move(run_id, WaitingForSlot(user_id))
        self._fill()

    async def wake(self, run_id: str) -> None:
        """Look at a run that has waited for answers: it may go on now, or has to stop."""
        head = await self._worker.log.head(run_id)
        if head is None or head.closed or not head.released:
            return
        if head.cancel_requested:
            await self._stopper.cancel(run_id)
        elif head.status == "queued" and self._capacity and not self._closed:
            self.enqueue(run_id, (await read_queued(self._worker.log, run_id)).user_id)

    def take_over(self, run: OpenRun, *, crashed: bool) -> None:
        """Go on with the run of a worker that is gone, as soon as a slot is free."""
        self._runs.move(run.run_id, Lost(run, crashed))
        self._fill()

    def end(self, run_id: str) -> None:
        """A run has ended: the next one of its session may start."""
        self._runs.end(run_id)
        self._fill()

    def restart(self, run_id: str, runner: AttemptRunner) -> None:
        """Hand a run over to ourselves: its next attempt begins on another loop."""
        runner.abandon(handed_over=True)
        context = runner.context
        self._begin(run_id, context.user_id, self._attempts.take_over(run_id, context.attempt))

    def close(self) -> None:
        """Start no more runs."""
        self._closed = True
        for run_id in self._runs.of(*WAITING):
            self._runs.move(run_id, None)

    def _fill(self) -> None:
        while not self._closed and self._worker.leases.held and self._runs.count(*WITH_SLOT) < self._capacity:
            match self._runs.next():
                case run_id, Lost(run, crashed=True):
                    self._begin(run_id, run.user_id, self._attempts.adopt(run))
                case run_id, Lost(run):
                    self._begin(run_id, run.user_id, self._attempts.take_over(run_id, run.attempt))
                case run_id, WaitingForSlot(user_id):
                    self._begin(run_id, user_id, self._attempts.claim(run_id))
                case _:
                    return

    def _begin(self, run_id: str, user_id: str, attempt: Coroutine[Any, Any, Attempt | None]) -> None:
        starting = Starting()
        self._runs.move(run_id, starting)
        self._worker.tasks.start(run_id, self._start(run_id, user_id, starting, attempt))

    async def _start(
        self, run_id: str, user_id: str, starting: Starting, begin: Coroutine[Any, Any, Attempt | None]
    ) -> None:
        before: str | None = None
        try:
            attempt = await begin
            if attempt is not None and not self._closed:  # closed: another worker takes the attempt over
                self._launch(attempt)
        except ToStop:
            starting.stop = True
        except SessionBusy as busy:
            before = busy.run_id
            self._runs.move(run_id, WaitingForSession(user_id, before))
        except AppendRefused as refusal:
            log.info("run_not_taken", run_id=run_id, reason=str(refusal))  # another worker was first
        finally:
            self._runs.remove(run_id, Starting)
            if starting.stop:
                self._worker.tasks.start(run_id, self._stopper.cancel(run_id))
        if before is not None:
            head = await self._worker.log.head(before)
            if head is None or head.closed:  # its ending may have come before this run began to wait
                self.end(before)

    def _launch(self, attempt: Attempt) -> None:
        run_id, queued = attempt.run_id, attempt.queued
        context = RunContext(
            run_id, queued.user_id, queued.agent, queued.session_id, queued.metadata, attempt.number
        )
        loop = self._worker.loops.take(self._catalog.isolation(queued.agent))
        runner = AttemptRunner(self._worker.log, self._build, loop, context, queued, attempt.history)
        running = Running(runner)
        self._runs.move(run_id, running)
        with bound_contextvars(run_id=run_id):  # the attempt's tasks inherit it: for log lines of any code
            future = loop.submit(runner.run())
        server_loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: call_in(server_loop, self._finished, run_id, runner))
        self._stopper.set_timeouts(run_id, running, queued.definition)

    async def _build(self, context: RunContext, queued: Queued) -> Agent:
        context, name = await remembering(self._worker.log, context, queued), context.agent_name
        if self._catalog.isolation(name) == "process":
            return ProcessAgent(self._processes, self._catalog.spec_of(name, queued.definition), context)
        return await self._catalog.build(name, context, queued.definition)

    def _finished(self, run_id: str, runner: AttemptRunner) -> None:
        self._stopper.abandoned.discard(runner)
        state = self._runs.get(run_id)
        if isinstance(state, Running) and state.runner is runner:
            self._runs.move(run_id, None)
        if runner.asked and not self._closed:  # the answer, or a stop, may have come before this
            self._worker.tasks.start(run_id, self.wake(run_id))
