"""Watching agents' loops: an agent that blocks its loop must not hold up other runs."""

from collections.abc import Iterable, Set
from typing import Protocol

import structlog

from runstore.runtime.loops.agent_loops import AgentLoop, AgentLoops

LOOPS_CHECK_S = 0.25  # seconds between two checks of the loops
MOVE_S = 5.0  # seconds that a loop may be blocked before its other runs are moved to another loop

log = structlog.get_logger(__name__)


class RunningAttempts(Protocol):
    """The runs whose agents are at work in this process."""

    def ids(self) -> Set[str]:
        """All of them."""

    def on(self, loop: AgentLoop) -> Iterable[str]:
        """Those of one loop."""

    def move(self, run_id: str) -> None:
        """Let a run go on in another attempt, elsewhere."""

    def let_go(self) -> None:
        """Give up the agents that go on although their run was taken from them."""


class LoopWatch:
    """Retires blocked loops, moves the other runs away, and interrupts code that outlives its run."""

    def __init__(self, loops: AgentLoops, runs: RunningAttempts) -> None:
        self._loops = loops
        self._runs = runs

    async def look(self) -> None:
        """Look at all loops. To be called several times a second."""
        for blocked in self._loops.look():
            if blocked.stack is not None:
                log.warning("loop_blocked", run_id=blocked.run_id, stack=blocked.stack)
            self._loops.retire(blocked.loop)
            if blocked.silent_s >= MOVE_S and blocked.run_id is not None:
                self._move_others(blocked.loop, blocked.run_id)
        self._runs.let_go()
        self._loops.interrupt()
        self._loops.tools.abandon(self._loops.tools.runs() - self._runs.ids())

    def _move_others(self, loop: AgentLoop, culprit: str) -> None:
        for run_id in self._runs.on(loop):
            if run_id != culprit:
                log.warning("run_moved", run_id=run_id, blocked_by=culprit)
                self._runs.move(run_id)
