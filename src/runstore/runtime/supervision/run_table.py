"""The runs that concern this process, each in one state."""

import asyncio
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, TypeVar

from msgspec import Struct, field

from runstore.core.ports import OpenRun
from runstore.runtime.attempts.runner import AttemptRunner
from runstore.runtime.attempts.starting import Fresh
from runstore.runtime.supervision.waiting import FairQueue, SessionWaiters


class WaitingForSlot(Struct, frozen=True):
    """A queued run that this process starts when a slot is free.

    `fresh`: this process has just queued it, and knows its start without reading it.
    """

    user_id: str
    fresh: Fresh | None = None


class WaitingForSession(Struct, frozen=True):
    """A queued run whose session has an earlier run, `before`, that has not ended."""

    user_id: str
    before: str


class Lost(Struct, frozen=True):
    """A run whose worker is gone, to be taken over ahead of queued runs. `crashed`: False if handed over."""

    run: OpenRun
    crashed: bool


class EarlyRequests(Struct):
    """The requests for a run whose attempt has not begun yet.

    `stop`: end it as soon as it has begun. `added`: the seq of the last message that a person has added.
    """

    stop: bool = False
    added: int = 0


class SlotKept(Struct, frozen=True):
    """A run whose first append has no answer yet. This process keeps a slot for it."""

    early: EarlyRequests = field(default_factory=EarlyRequests)


class Starting(Struct, frozen=True):
    """A run whose attempt this process is about to begin."""

    early: EarlyRequests = field(default_factory=EarlyRequests)


class Running(Struct):
    """A run that this process drives."""

    runner: AttemptRunner
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)


class Stopping(Running):
    """A run whose agent was asked to stop."""


State = WaitingForSlot | WaitingForSession | Lost | SlotKept | Starting | Running | Stopping
S = TypeVar("S", bound=State)

WAITING = (WaitingForSlot, WaitingForSession, Lost)
WITH_SLOT = (SlotKept, Starting, Running, Stopping)
LEGAL: Mapping[type, frozenset[type]] = {  # NoneType: the run is not in the table
    NoneType: frozenset({WaitingForSlot, Lost, SlotKept, Starting}),  # Starting: the caller was cancelled
    WaitingForSlot: frozenset({Starting, Lost, NoneType}),
    WaitingForSession: frozenset({WaitingForSlot, Lost, NoneType}),
    Lost: frozenset({Lost, Starting, NoneType}),
    SlotKept: frozenset({Starting, NoneType}),
    Starting: frozenset({Running, WaitingForSession, NoneType}),
    Running: frozenset({Stopping, Starting, NoneType}),  # Starting: the next attempt, on another loop
    Stopping: frozenset({NoneType}),
}


class RunTable:
    """The state of each run, and the runs of each state. Not thread-safe: it belongs to the server's loop.

    Args:
        release: called with each runner whose run leaves `Running` or `Stopping`.
    """

    def __init__(self, release: Callable[[AttemptRunner], None]) -> None:
        self._release = release
        self._states: dict[str, State] = {}
        self._runs: dict[type, dict[str, Any]] = {kind: {} for kind in LEGAL}
        self._queue = FairQueue()
        self._waiters = SessionWaiters()
        self._slot_freed = asyncio.Event()
        self.on_free: Callable[[], None] = lambda: None  # called when a slot becomes free

    def get(self, run_id: str) -> State | None:
        """The state of a run. From any thread."""
        return self._states.get(run_id)

    def of(self, *kinds: type[S]) -> dict[str, S]:
        """The runs in exactly these states."""
        return {run_id: state for kind in kinds for run_id, state in self._runs[kind].items()}

    def count(self, *kinds: type[State]) -> int:
        """The number of runs in exactly these states."""
        return sum(len(self._runs[kind]) for kind in kinds)

    def driven(self) -> dict[str, Running]:
        """The runs that have an agent."""
        return self.of(Running, Stopping)

    def has_slot(self, run_id: str) -> bool:
        return isinstance(self._states.get(run_id), WITH_SLOT)

    def awaited(self) -> set[str]:
        """The runs that others of their session wait for."""
        return self._waiters.awaited()

    def next(self) -> tuple[str, State] | None:
        """Choose the run to start now: lost runs come first, then users take turns."""
        if lost := self._runs[Lost]:
            return next(iter(lost.items()))
        if self._queue:
            run_id, _ = self._queue.take()
            return run_id, self._states[run_id]
        return None

    def move(self, run_id: str, new: State | None) -> None:
        """Put a run into another state; None: take it out of the table.

        Raises:
            RuntimeError: the transition is not legal.
        """
        old = self._states.get(run_id)
        if type(new) not in LEGAL[type(old)]:
            raise RuntimeError(f"run {run_id} cannot go from {type(old).__name__} to {type(new).__name__}")
        if new is None:
            self._states.pop(run_id, None)
        else:  # before `_runs`: the writer's thread reads `_states`
            self._states[run_id] = new
        self._runs[type(old)].pop(run_id, None)
        match old:
            case WaitingForSlot():
                self._queue.remove(run_id)
            case WaitingForSession(before=before):
                self._waiters.remove(run_id, before)
            case Running(runner, timers) if not isinstance(new, Running):
                for timer in timers.values():
                    timer.cancel()
                self._release(runner)
        if new is not None:
            self._runs[type(new)][run_id] = new
        match new:
            case WaitingForSlot(user_id=user_id):
                self._queue.add(run_id, user_id)
            case WaitingForSession(before=before):
                self._waiters.add(run_id, before)
        if isinstance(old, WITH_SLOT) and not isinstance(new, WITH_SLOT):
            self._slot_freed.set()
            self.on_free()

    def remove(self, run_id: str, *kinds: type[State]) -> None:
        """Take a run out of the table if it is in one of these states."""
        if isinstance(self._states.get(run_id), kinds):
            self.move(run_id, None)

    def end(self, run_id: str) -> None:
        """A run has ended: it waits no more, and the runs that waited for it wait for a slot."""
        self.remove(run_id, *WAITING)
        for follower in self._waiters.of(run_id):
            self.move(follower, WaitingForSlot(self._runs[WaitingForSession][follower].user_id))

    async def until_idle(self) -> None:
        """Wait until no run has a slot."""
        while self.count(*WITH_SLOT):
            self._slot_freed.clear()
            await self._slot_freed.wait()
