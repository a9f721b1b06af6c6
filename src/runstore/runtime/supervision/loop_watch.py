"""Watching the agents' loops: an agent that blocks its loop must not hold up other runs."""

import structlog

from runstore.runtime.loops.agent_loops import AgentLoop
from runstore.runtime.supervision.dispatcher import Dispatcher
from runstore.runtime.supervision.run_table import Running
from runstore.runtime.supervision.stopper import Stopper
from runstore.runtime.supervision.worker import Worker

MOVE_S = 5.0  # seconds that a loop may be blocked before its other runs are moved to another loop

log = structlog.get_logger(__name__)


class LoopWatch:
    """Retires blocked loops, moves the other runs away, and interrupts code that outlives its run."""

    def __init__(self, worker: Worker, dispatcher: Dispatcher, stopper: Stopper) -> None:
        self._loops = worker.loops
        self._runs = worker.runs
        self._dispatcher = dispatcher
        self._stopper = stopper

    async def look(self) -> None:
        """Look at all loops. To be called several times a second."""
        for blocked in self._loops.look():
            if blocked.stack is not None:
                log.warning("loop_blocked", run_id=blocked.run_id, stack=blocked.stack)
            self._loops.retire(blocked.loop)
            if blocked.silent_s >= MOVE_S and blocked.run_id is not None:
                self._move_others(blocked.loop, blocked.run_id)
        self._stopper.let_go()
        self._loops.interrupt()
        self._loops.tools.abandon(self._loops.tools.runs() - self._runs.driven().keys())

    def _move_others(self, loop: AgentLoop, culprit: str) -> None:
        for run_id, running in self._runs.of(Running).items():
            if running.runner.loop is loop and run_id != culprit:
                log.warning("run_moved", run_id=run_id, blocked_by=culprit)
                self._dispatcher.restart(run_id, running.runner)
