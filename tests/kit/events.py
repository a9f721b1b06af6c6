"""Events that a run is made of, and runs that have got so far."""

from typing import Any

from runstore.core.codec import RecordedEvent, encode
from runstore.core.errors import RunstoreError
from runstore.core.events import (
    Cancelled,
    CancelRequested,
    Completed,
    Custom,
    Event,
    Failed,
    InputGiven,
    InputRequested,
    Queued,
    Started,
    StartReason,
    Token,
)
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog
from runstore.eventlog.pending import MAX_RUN_EVENTS

QUEUED = Queued(agent="demo", user_id="local", input="hi")
CANCEL = CancelRequested(by="local", reason="user")
COMPLETED = Completed(result={"text": "done"})
FAILED = Failed(code="agent_error", message="no")
CANCELLED = Cancelled(reason="user")
ENDINGS = (COMPLETED, FAILED, CANCELLED)


def started(attempt: int = 1, worker_id: str = "worker-1", reason: StartReason = "claimed") -> Started:
    return Started(worker_id=worker_id, attempt=attempt, reason=reason)


def asked(request_id: str = "1.1", *, expires_at: int | None = None, default: Any = None) -> InputRequested:
    return InputRequested(
        agent="demo", request_id=request_id, prompt="Really?", expires_at=expires_at, default=default
    )


def given(request_id: str = "1.1", *, open: int = 0, answer: Any = "yes") -> InputGiven:
    return InputGiven(request_id=request_id, answer=answer, by="local", open=open)


def token(text: str = "word ") -> Token:
    return Token(text=text, agent="demo")


def note(text: str = "") -> Custom:
    return Custom("custom.note", text)


async def start_run(log: EventLog, run_id: str | None = None) -> str:
    """A new run in its first attempt: its head is 2."""
    run_id = run_id or new_run_id()
    await log.append(run_id, [QUEUED, started()], expected_seq=0)
    return run_id


_refusals: list[RunstoreError] = []


def unexpected(error: RunstoreError) -> None:
    """Record a refusal. The writer ignores exceptions of this callback, so the test's end checks it."""
    _refusals.append(error)


def take_unexpected() -> list[RunstoreError]:
    """The refusals that no test expected, since this was last called."""
    taken, _refusals[:] = list(_refusals), []
    return taken


def offer(log: EventLog, run_id: str, event: Event | Custom, *, attempt: int = 1) -> bool:
    """Offer an event that has to be taken in the end; False when there is no room for it now."""
    return log.offer(run_id, encode(event), attempt=attempt, refused=unexpected)


def fill_up(log: EventLog, run_id: str) -> None:
    """Offer text until there is no more room."""
    for _ in range(2 * MAX_RUN_EVENTS):
        if not offer(log, run_id, token()):
            return
    raise AssertionError("there is no end to the room")


async def offer_all(log: EventLog, run_id: str, *events: Event | Custom, attempt: int = 1) -> None:
    """Offer events as an agent does: waiting for room, and not for their commit."""
    for event in events:
        while not offer(log, run_id, event, attempt=attempt):
            await log.room(run_id)


async def read_run(log: EventLog, run_id: str, *, limit: int = 1000) -> list[RecordedEvent]:
    """All of a run's events, page by page."""
    events: list[RecordedEvent] = []
    while page := await log.read(run_id, after=events[-1].seq if events else 0, limit=limit):
        events += page
    return events


async def close_run(log: EventLog) -> str:
    """A new run that has ended: its head is 3."""
    run_id = await start_run(log)
    await log.append(run_id, [COMPLETED])
    return run_id


async def texts(log: EventLog, run_id: str) -> list[str]:
    """The notes and tokens of a run, whose seqs have to be dense."""
    events = await read_run(log, run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    said = {encode(make(f"{i}")).data: f"{i}" for i in range(3 * MAX_RUN_EVENTS) for make in (token, note)}
    return [said[event.data] for event in events if event.type in ("llm.token", "custom.note")]
