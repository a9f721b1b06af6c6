"""Ending runs: on request, at a timeout, and by force when their agent does not end in time."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from runstore.core.errors import AppendRefused
from runstore.core.events import Cancelled, Ending, Failed
from runstore.runtime.attempts.history import read_cancellation
from runstore.runtime.attempts.runner import AttemptRunner
from runstore.runtime.loops.agent_loops import LEAVE_S
from runstore.runtime.supervision.run_table import WAITING, Running, SlotKept, Starting, Stopping
from runstore.runtime.supervision.worker import RunWorker

log = structlog.get_logger(__name__)


class Stopper:
    """Ends the runs of this process, and those that no process drives.

    Args:
        grace_s: seconds that an agent gets to end after it was asked to.
    """

    def __init__(self, worker: RunWorker, *, grace_s: float) -> None:
        self._worker = worker
        self._runs = worker.runs
        self._grace_s = grace_s
        self.abandoned: set[AttemptRunner] = set()  # their agents go on, though their run was taken from them
        self.forced = 0  # runs that were closed by force

    async def cancel(self, run_id: str, *, lost: bool = False) -> None:
        """Stop a run of this process, or close one without a worker. A living worker stops its own runs.

        Args:
            lost: the run's worker is gone.
        """
        state = self._runs.get(run_id)
        if isinstance(state, SlotKept | Starting):
            state.early.stop = True
            return
        ending = await read_cancellation(self._worker.log, run_id)
        if isinstance(self._runs.get(run_id), Running):
            self.stop(run_id, ending)
        elif lost or await self._has_no_worker(run_id):
            self._runs.remove(run_id, *WAITING)
            await self._close(run_id, ending)

    def stop(self, run_id: str, ending: Ending) -> None:
        """Ask a running agent to end its run with this event. The first request counts."""
        state = self._runs.get(run_id)
        if type(state) is Running:
            self._runs.move(run_id, Stopping(state.runner, state.timers))
            state.runner.stop(ending)
            state.timers["force"] = asyncio.get_running_loop().call_later(
                self._grace_s, lambda: self._worker.tasks.start(run_id, self.force(run_id, ending))
            )

    def set_timeouts(
        self, run_id: str, running: Running, definition: Mapping[str, Any], *, spent_s: float = 0
    ) -> None:
        """Stop the run when it takes too long, or its agent is silent for too long.

        Args:
            spent_s: seconds that it has taken before this attempt.
        """
        if timeout_s := definition.get("run_timeout_s"):
            timeout = Failed(code="timeout", message=f"the run took longer than {timeout_s} s")
            running.timers["run"] = asyncio.get_running_loop().call_later(
                max(0, timeout_s - spent_s), self.stop, run_id, timeout
            )
        if idle_s := definition.get("idle_timeout_s"):
            self._watch_idle(run_id, running, idle_s, idle_s)

    async def force(self, run_id: str, ending: Ending | None = None) -> None:
        """Close a run without its agent, whose further events the log refuses.

        Args:
            ending: None: the one that the run's cancel request asks for.
        """
        ending = ending or await read_cancellation(self._worker.log, run_id)
        if isinstance(ending, Cancelled):
            ending = msgspec.structs.replace(ending, forced=True)
        if await self._close(run_id, ending):
            self.forced += 1
            log.warning("run_forced", run_id=run_id, ending=ending.type)
        self.abandon(run_id)

    def abandon(self, run_id: str, *, handed_over: bool = False) -> None:
        """Take a run from its agent, which may need time to end, or never ends."""
        state = self._runs.get(run_id)
        if isinstance(state, Running):
            self.abandoned.add(state.runner)  # until its task has ended
            state.runner.abandon(handed_over=handed_over)
            self._runs.move(run_id, None)

    def let_go(self) -> None:
        """Close the resources of abandoned agents that have not ended, and give their loops no more runs."""
        self.abandoned = {runner for runner in self.abandoned if runner.loop.alive}
        for runner in self.abandoned:
            if runner.abandoned_s >= LEAVE_S:
                runner.let_go()
                self._worker.loops.retire(runner.loop)

    async def _has_no_worker(self, run_id: str) -> bool:
        """Whether the run is queued, or waits for answers."""
        head = await self._worker.log.head(run_id)
        return head is not None and not head.closed and head.status != "running"

    def _watch_idle(self, run_id: str, running: Running, idle_s: float, left_s: float) -> None:
        def look() -> None:
            left_s = idle_s - running.runner.idle_s
            if left_s > 0:
                self._watch_idle(run_id, running, idle_s, left_s)
            else:
                idle = Failed(code="timeout", message=f"the agent said nothing for {idle_s} s")
                self.stop(run_id, idle)

        running.timers["idle"] = asyncio.get_running_loop().call_later(left_s, look)

    async def _close(self, run_id: str, ending: Ending) -> bool:
        """Append an ending. Returns False if the run has one."""
        try:
            await self._worker.log.append(run_id, [ending], patient=True)
        except AppendRefused:
            return False
        return True
