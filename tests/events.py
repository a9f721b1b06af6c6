"""Events that a run is made of, and runs that have got so far."""

from runstore.core.events import (
    Cancelled,
    CancelRequested,
    Completed,
    Custom,
    Failed,
    Queued,
    Started,
    StartReason,
    Token,
)
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog

QUEUED = Queued(agent="demo", user_id="local", input="hi")
CANCEL = CancelRequested(by="local", reason="user")
COMPLETED = Completed(result={"text": "done"})
FAILED = Failed(code="agent_error", message="no")
CANCELLED = Cancelled(reason="user")
ENDINGS = (COMPLETED, FAILED, CANCELLED)


def started(attempt: int = 1, worker_id: str = "worker-1", reason: StartReason = "claimed") -> Started:
    return Started(worker_id=worker_id, attempt=attempt, reason=reason)


def token(text: str = "word ") -> Token:
    return Token(text=text, agent="demo")


def note(text: str = "") -> Custom:
    return Custom("custom.note", text)


async def start_run(log: EventLog) -> str:
    """A new run in its first attempt: its head is 2."""
    run_id = new_run_id()
    await log.append(run_id, [QUEUED, started()], expected_seq=0)
    return run_id


async def close_run(log: EventLog) -> str:
    """A new run that has ended: its head is 3."""
    run_id = await start_run(log)
    await log.append(run_id, [COMPLETED])
    return run_id
