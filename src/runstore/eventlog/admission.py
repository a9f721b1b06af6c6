"""Decides whether a run accepts an append: the concurrency rule shared by every kind of log."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from runstore.core.codec import EncodedEvent
from runstore.core.errors import (
    LeaseLost,
    RunActive,
    RunClosed,
    RunNotFound,
    RunstoreError,
    Unheard,
    WrongExpectedSeq,
)
from runstore.core.events import (
    STREAMED_TYPES,
    AuditErased,
    AuditProjection,
    AuditRead,
    CancelRequested,
    Deleted,
    InputAdded,
    InputGiven,
    InputRequested,
    Purged,
    Queued,
    Started,
)
from runstore.core.ports import Head, Reservation

NOTHING = Head(seq=0)
MARKERS = frozenset({Deleted.type, Purged.type})  # accepted by a closed run, each alone

# The first event of a run, or of a stream of reads.
BEGINNINGS = frozenset({Queued.type, AuditRead.type, AuditErased.type, AuditProjection.type})


class Waiter(Struct, frozen=True):
    """A coroutine that waits for its append, and its event loop."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[int]"


class Append(Struct, eq=False):
    """The events that one writer wants to append to one run. Compared by identity.

    `waiter` receives the last seq or the error; without one, `refused` is called on a refusal. `patient`
    appends survive an unavailable log, others fail with it. `urgent` ones precede other runs' streamed text.
    `text`: `is_text` holds for each event. `size`: bytes of data. `heard`: see `LogWriter.append`.
    """

    run_id: str
    events: list[EncodedEvent]
    expected_seq: int | None = None
    attempt: int | None = None
    patient: bool = False
    urgent: bool = True
    text: bool = False
    size: int = 0
    waiter: Waiter | None = None
    refused: Callable[[RunstoreError], None] | None = None
    reservation: Reservation | None = None
    heard: int | None = None


def is_text(event: EncodedEvent) -> bool:
    """Whether an event is streamed text: it changes nothing of its run, and discards nothing."""
    return event.type in STREAMED_TYPES and not event.ends


class Given(Struct, frozen=True):
    """The fields of an `input.given` that change the run's state."""

    open: int = 0
    expires_at: int | None = None


def admit(head: Head, append: Append) -> list[EncodedEvent]:
    """The events that the run accepts, in order, from `head.seq + 1` on.

    Raises:
        RunNotFound, RunActive, RunClosed, LeaseLost, WrongExpectedSeq, Unheard
    """
    events = append.events
    first = events[0]
    if first.type == Queued.type and head.seq:
        raise WrongExpectedSeq(append.run_id, head.seq, 0)
    if first.type not in BEGINNINGS and not head.seq:
        raise RunNotFound(f"there is no run {append.run_id}")
    if first.type in MARKERS and not head.closed:
        raise RunActive(f"run {append.run_id} has not ended: stop it, then delete it")
    if head.closed and not _takes_marker(head, append):
        raise RunClosed(append.run_id, head.seq)
    if append.attempt is not None and (append.attempt < head.attempt or head.released):
        raise LeaseLost(append.run_id, head.seq, append.attempt, head.attempt)
    if append.expected_seq is not None and append.expected_seq != head.seq:
        raise WrongExpectedSeq(append.run_id, head.seq, append.expected_seq)
    if append.heard is not None and head.added > append.heard:
        raise Unheard(append.run_id, head.seq, head.added)
    if head.cancel_requested:  # a repeated request is not stored again
        return [event for event in events if event.type != CancelRequested.type]
    return events


def _takes_marker(head: Head, append: Append) -> bool:
    """Whether a closed run accepts a marker: each marker once, and no marker after `run.purged`.

    The exception is a purge that replaces an earlier `run.purged`: it names the head that it has seen.
    """
    type = append.events[0].type
    if head.purged:
        return type == Purged.type and append.expected_seq == head.seq
    return type == Purged.type or (type == Deleted.type and not head.deleted)


def advance(head: Head, events: Sequence[EncodedEvent], *, text: bool = False) -> Head:
    """The head after these events. `text`: they are all streamed text."""
    if text:
        return msgspec.structs.replace(head, seq=head.seq + len(events))
    closed, deleted, attempt, cancel = head.closed, head.deleted, head.attempt, head.cancel_requested
    purged, status, added = head.purged, head.status, head.added
    for seq, event in enumerate(events, head.seq + 1):
        if event.ends:
            closed = True
        elif event.type == CancelRequested.type:
            cancel = True
        elif event.type == Started.type:
            attempt = msgspec.json.decode(event.data, type=Started).attempt
            status = "running"
        elif event.type == InputRequested.type:
            status = "waiting"
        elif event.type == InputGiven.type:
            left = msgspec.json.decode(event.data, type=Given).open
            status = "waiting" if left else "queued"
        elif event.type == InputAdded.type:
            added = seq
        elif event.type == Deleted.type:
            deleted = True
        elif event.type == Purged.type:
            purged = True
    return Head(head.seq + len(events), closed, deleted, attempt, cancel, purged, status, added)
