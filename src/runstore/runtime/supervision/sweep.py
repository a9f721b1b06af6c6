"""Looking after all open runs: this finds runs of dead workers, and events that the live feed has lost."""

import time

import structlog

from runstore.core.ports import OpenRun
from runstore.core.times import now_ms
from runstore.runtime.supervision.dispatcher import Dispatcher
from runstore.runtime.supervision.expiry import expire
from runstore.runtime.supervision.run_table import Lost, Running, WaitingForSlot
from runstore.runtime.supervision.stopper import Stopper
from runstore.runtime.supervision.worker import RunWorker

MAX_SWEPT = 2_000  # open runs that one sweep reads; those of living workers do not count
MAX_EXPIRED = 100  # waiting runs whose requests one sweep expires
PATIENCE_S = 0.5  # seconds after the grace period before this process enforces a cancel for another worker

log = structlog.get_logger(__name__)


class Sweep:
    """Compares the table of runs with the log.

    Args:
        grace_s: seconds from a cancel's commit to the run's ending.
    """

    def __init__(
        self, worker: RunWorker, dispatcher: Dispatcher, stopper: Stopper, *, grace_s: float
    ) -> None:
        self._log = worker.log
        self._leases = worker.leases
        self._runs = worker.runs
        self._tasks = worker.tasks
        self._dispatcher = dispatcher
        self._stopper = stopper
        self._patience_s = grace_s + PATIENCE_S
        self._strays: set[str] = set()  # runs that the last sweep found ours in the log, but not in the table
        self._cancels_seen: dict[str, float] = {}  # monotonic time at which a cancel was first seen

    async def sweep(self) -> None:
        """Look at the open runs once.

        Raises:
            LogUnavailable
        """
        known = self._runs.of(Lost)
        workers = await self._log.workers()
        dead = await self._leases.dead(workers)
        await self._end_turns()
        for run_id in await self._log.expired(now_ms(), limit=MAX_EXPIRED):
            self._tasks.start(run_id, expire(self._log, run_id, now_ms()))
        strays = await self._compare_ours()
        queued = self._runs.of(WaitingForSlot).keys()
        found = await self._log.open_runs(limit=MAX_SWEPT, exclude_workers=workers - dead.keys())
        if len(found) < MAX_SWEPT:
            for run_id in queued - {run.run_id for run in found if run.worker_id is None}:
                self._runs.remove(run_id, WaitingForSlot)  # taken by another worker, which the feed has lost
        now = time.monotonic()
        self._cancels_seen = {
            run.run_id: self._cancels_seen.get(run.run_id, now) for run in found if run.cancel_at is not None
        }
        lost = self._runs.of(Lost)
        for run_id, state in known.items():
            if lost.get(run_id) is state:  # a run that became lost since may be missing in this read
                self._runs.move(run_id, None)
        for run in strays:
            self._look_after(run, run.run_id not in lost or lost[run.run_id].crashed, now)
        for run in found:
            self._look_after(run, dead.get(run.worker_id or ""), now)
        await self._leases.forget(workers)

    async def _end_turns(self) -> None:
        """Let the runs go on that wait for a run whose ending the feed has lost."""
        awaited = self._runs.awaited()
        for run_id in awaited - (await self._log.open_attempts(awaited)).keys():
            self._dispatcher.end(run_id)

    async def _compare_ours(self) -> list[OpenRun]:
        """Abandon the runs that this process drives, but does not have in the log any more.

        The agents of the others learn of messages that people have added.

        Returns the runs that it has in the log, but does not drive. Only a run that two sweeps have found so
        is lost: an attempt that begins is in the log before it is in the table. While the log is unavailable
        it may stay so for long, as the answer of a commit was lost.
        """
        driven = self._runs.driven()
        ours = {run.run_id: run for run in await self._log.runs_of(self._leases.worker_id)}
        for run_id in driven.keys() - ours.keys():
            self._tasks.start(run_id, self._leave(run_id, driven[run_id]))
        for run_id in driven.keys() & ours.keys():
            driven[run_id].runner.notify_added(ours[run_id].added)
        missed = {run_id for run_id in ours if not self._runs.has_slot(run_id)}
        lost = self._runs.of(Lost).keys()
        if self._log.unavailable:
            self._strays, missed = set(), missed & lost
        strays = missed & (self._strays | lost)
        self._strays = missed
        return [ours[run_id] for run_id in strays]

    def _look_after(self, run: OpenRun, crashed: bool | None, now: float) -> None:
        """`crashed`: whether the run's worker has crashed or left; None if it is alive or does not exist."""
        ours = self._runs.has_slot(run.run_id)
        driven = ours or (run.worker_id is not None and crashed is None)
        if run.cancel_at is not None:
            if ours or not driven:
                cancel = self._stopper.cancel(run.run_id, lost=crashed is not None)
                self._tasks.start(run.run_id, cancel)
            elif now - self._cancels_seen[run.run_id] > self._patience_s:
                self._tasks.start(run.run_id, self._stopper.force(run.run_id))
        elif run.worker_id is None:
            self._dispatcher.enqueue(run.run_id, run.user_id)
        elif not driven:
            self._dispatcher.take_over(run, crashed=bool(crashed))

    async def _leave(self, run_id: str, running: Running) -> None:
        """Abandon a run that has ended, or goes on, in another process: its agent may not notice for long."""
        runner = running.runner
        head, attempt = await self._log.head(run_id), runner.context.attempt
        state = self._runs.get(run_id)
        if not isinstance(state, Running) or state.runner is not runner or runner.written:
            return
        if head is None or head.closed:
            log.info("run_lost", run_id=run_id, reason="it has ended elsewhere")
            self._stopper.abandon(run_id)
        elif head.attempt > attempt:
            log.info("run_lost", run_id=run_id, reason=f"attempt {head.attempt} has begun elsewhere")
            self._stopper.abandon(run_id, handed_over=True)
