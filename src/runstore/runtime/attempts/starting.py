"""Starts attempts.

`lifecycle.started` is appended at the expected head of the run, or the attempt does not start.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

import msgspec
import structlog
from msgspec import Struct

from runstore.core.codec import EncodedEvent, RecordedEvent, decode
from runstore.core.errors import WrongExpectedSeq
from runstore.core.events import Failed, Queued, Started, StartReason
from runstore.core.inputs import INPUTS
from runstore.core.ports import EventLog, Head, OpenRun
from runstore.runtime.attempts.history import read_history, read_start
from runstore.runtime.memory.at_most_once import obstacle
from runstore.runtime.memory.resume import discard_after, may_redact

START_TRIES = 20  # tries per attempt while others append to the run; the next sweep continues
MAX_ADOPTIONS = 2  # takeovers of a crashed run: three attempts in all


log = structlog.get_logger(__name__)


class Attempt(Struct, frozen=True):
    """A run that a worker has.

    Args:
        history: events of earlier attempts, on which this one builds.
        timed_from: when the time limit of the run began, if it did before this attempt: UTC, milliseconds
            since 1970.
        fresh: the run had no event but its start when the attempt began.
    """

    run_id: str
    number: int
    queued: Queued
    history: Sequence[RecordedEvent] = ()
    timed_from: int | None = None
    fresh: bool = False


class Fresh(Struct, frozen=True):
    """A run whose last event, at `seq`, is its `lifecycle.queued`, unless others have added to it since."""

    seq: int
    queued: EncodedEvent


class _Reason(Struct, frozen=True):
    reason: str  # the field of `lifecycle.started`


class ToStop(Exception):
    """The run must stop before it starts."""


class Attempts:
    """Starts attempts on behalf of one worker.

    Every method returns None if the run can no longer be started, and raises AppendRefused if another worker
    was first, or SessionBusy if it is not the run's turn.
    """

    def __init__(self, log: EventLog, worker_id: str) -> None:
        self._log = log
        self._worker_id = worker_id

    async def claim(self, run_id: str, fresh: Fresh | None = None) -> Attempt | None:
        """Take a queued run. Nothing is read if `fresh` is still all that there is of it.

        Raises:
            ToStop: a stop was requested.
        """
        if fresh is not None:
            with suppress(WrongExpectedSeq):
                return await self._begin(_first(run_id, fresh), fresh.seq, "claimed", None)
        return await _try_again(partial(self._claim, run_id))

    async def begun(self, run_id: str, fresh: Fresh) -> Attempt:
        """The first attempt of a run that was queued and claimed in one append."""
        return _noted(_first(run_id, fresh), "claimed")

    async def adopt(self, run: OpenRun) -> Attempt | None:
        """Take the run of a crashed worker; end a run that cannot resume."""
        return await _try_again(partial(self._go_on, run.run_id, run.attempt, run.adoptions, "adopted"))

    async def go_on(self, run_id: str, attempt: int, reason: StartReason) -> Attempt | None:
        """Go on with a run after this attempt of a worker that is alive.

        Args:
            reason: "handed_over", perhaps by this worker itself; "added", if a person added a message when
                the agent was about to end; "adopted", if the agent was lost with its process.
        """
        adoptions = await self._adoptions(run_id) if reason == "adopted" else None
        return await _try_again(partial(self._go_on, run_id, attempt, adoptions, reason))

    async def _adoptions(self, run_id: str) -> int:
        history = await read_history(self._log, run_id)
        started = [event for event in history if event.type == Started.type]
        return sum(msgspec.json.decode(each.data, type=_Reason).reason == "adopted" for each in started)

    async def _claim(self, run_id: str) -> Attempt | None:
        head = await self._log.head(run_id)
        if head is None or head.closed or head.status != "queued":
            return None
        if head.cancel_requested:
            raise ToStop
        if head.attempt:  # it waited for answers, and has them
            return await self._go_on(run_id, head.attempt, None, "input")
        attempt = Attempt(run_id, 1, await read_start(self._log, run_id))
        return await self._begin(attempt, head.seq, "claimed", None)

    async def _go_on(
        self, run_id: str, attempt: int, adoptions: int | None, reason: StartReason
    ) -> Attempt | None:
        """`adoptions`: how often the run was adopted before; None if no worker has crashed."""
        head = await self._log.head(run_id)
        if head is None or head.closed or head.attempt != attempt:
            return None
        if head.status != ("queued" if reason == "input" else "running"):
            return None
        queued = await read_start(self._log, run_id)
        policy = queued.definition.get("on_worker_lost", "resume")
        given_up = adoptions is not None and (policy == "fail" or adoptions >= MAX_ADOPTIONS)
        if given_up or "recorded" in queued.definition:  # a program's own run has no agent to resume
            message = f"the worker of attempt {attempt} was lost"
            await self._end(run_id, head, Failed(code="worker_lost", message=message))
            return None
        history = await read_history(self._log, run_id)
        restarts = policy == "restart" and reason not in ("input", "added")
        if failed := obstacle(history, repeats=restarts):
            await self._end(run_id, head, failed)
            return None
        withholds = may_redact(history)
        timed_from = time_began(history) if reason == "added" else None
        if restarts:  # then all text is repeated, and only the answers of people are kept
            discard = discard_after([e for e in history if e.type == Started.type])
            history = [event for event in history if event.type in INPUTS.types]
        else:
            discard = discard_after(history)
        following = Attempt(run_id, attempt + 1, queued, history, timed_from)
        return await self._begin(following, head.seq, reason, discard, withholds=withholds)

    async def _begin(
        self,
        attempt: Attempt,
        last_seq: int,
        reason: StartReason,
        discard: int | None,
        *,
        withholds: bool = False,
    ) -> Attempt:
        started = Started(
            worker_id=self._worker_id, attempt=attempt.number, reason=reason, discard_after_seq=discard,
            withholds=withholds,
        )  # fmt: skip
        # Retry without a limit: an append abandoned in an outage may still be stored, and the run would be
        # adopted.
        await self._log.append(attempt.run_id, [started], expected_seq=last_seq, patient=True)
        return _noted(attempt, reason)

    async def _end(self, run_id: str, head: Head, failed: Failed) -> None:
        await self._log.append(run_id, [failed], expected_seq=head.seq)


def _first(run_id: str, fresh: Fresh) -> Attempt:
    queued = cast(Queued, decode(Queued.type, Queued.version, fresh.queued.data))
    return Attempt(run_id, 1, queued, fresh=True)


def _noted(attempt: Attempt, reason: StartReason) -> Attempt:
    log.info(
        "run_started",
        run_id=attempt.run_id,
        agent=attempt.queued.agent,
        attempt=attempt.number,
        reason=reason,
    )
    return attempt


def time_began(history: Sequence[RecordedEvent]) -> int | None:
    """When the time limit of the last attempt began: UTC, milliseconds since 1970.

    An attempt that begins for an added message has no time of its own, or messages could extend a run
    without a limit.
    """
    for event in reversed(history):
        if event.type == Started.type and msgspec.json.decode(event.data, type=_Reason).reason != "added":
            return event.at
    return None


async def _try_again(begin: Callable[[], Awaitable[Attempt | None]]) -> Attempt | None:
    """Begin, though others may add to the run between the look at its head and the append."""
    for _ in range(START_TRIES - 1):
        with suppress(WrongExpectedSeq):
            return await begin()
    return await begin()
