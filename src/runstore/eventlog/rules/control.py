"""Control tables: the data for rules across runs, written in the append's own transaction."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, tuple_, update

from runstore.core.codec import EncodedEvent
from runstore.core.events import (
    CancelRequested,
    InputAdded,
    InputGiven,
    InputRequested,
    Purged,
    Queued,
    Started,
)
from runstore.core.ports import Head, OpenRun
from runstore.core.queued import QueuedRun, read_queued
from runstore.database.columns import RunId
from runstore.database.tables import open_runs, purging, session_runs, sessions
from runstore.eventlog.admission import Given
from runstore.eventlog.queries import first_position
from runstore.eventlog.rules.sessions import session_of

WAITING = "waiting"  # the status of a run that waits for answers

_INSERT = insert(open_runs)
_JOIN_SESSION = insert(session_runs).values(  # the run's first event is stored already
    user_id=bindparam("user"),
    session_id=bindparam("session"),
    run_id=bindparam("run"),
    position=first_position(bindparam("run", type_=RunId)),
)
_DELETE = delete(open_runs).where(open_runs.c.run_id == bindparam("closed"))
_LEAVE_SESSION = delete(sessions).where(
    sessions.c.run_id == bindparam("closed"),
    tuple_(sessions.c.user_id, sessions.c.session_id).in_(
        select(open_runs.c.user_id, open_runs.c.session_id).where(open_runs.c.run_id == bindparam("closed"))
    ),
)
_PURGE = insert(purging)
_FORGET = delete(session_runs).where(
    session_runs.c.user_id == bindparam("user"),
    session_runs.c.session_id == bindparam("session"),
    session_runs.c.run_id == bindparam("purged"),
)
_CANCEL = (
    update(open_runs)
    .where(open_runs.c.run_id == bindparam("run"), open_runs.c.cancel_at.is_(None))
    .values(cancel_at=bindparam("at"))
)
_START = (
    update(open_runs)
    .where(open_runs.c.run_id == bindparam("run"))
    .values(
        status="running",
        attempt=bindparam("number"),
        worker_id=bindparam("worker"),
        adoptions=open_runs.c.adoptions + bindparam("adopted"),
    )
)
# A run that waits, or that has its answers and waits for its next attempt, has no worker.
_RELEASE = (
    update(open_runs)
    .where(open_runs.c.run_id == bindparam("run"))
    .values(status=bindparam("now"), worker_id=None, expires_at=bindparam("expires"))
)
_ADD = update(open_runs).where(open_runs.c.run_id == bindparam("run")).values(added=bindparam("seq"))
_runs = open_runs.c
_turn = func.row_number().over(
    partition_by=(_runs.worker_id, _runs.user_id), order_by=(_runs.queued_at, _runs.run_id)
)
_ranked = (
    select(_runs.run_id, _runs.worker_id, _runs.cancel_at, _runs.queued_at, _turn.label("turn"))
    .where(
        or_(
            _runs.worker_id.is_(None),
            _runs.worker_id.not_in(bindparam("exclude_workers", expanding=True)),
            _runs.cancel_at.is_not(None),
        ),
        or_(_runs.status != WAITING, _runs.cancel_at.is_not(None)),
    )
    .subquery()
)


def _urgency(run: Any, turn: Any) -> list[Any]:
    return [run.cancel_at.is_(None), run.worker_id.is_(None), turn, run.queued_at, run.run_id]


_first = (  # rank narrow rows, then read whole ones: half the time
    select(_ranked.c.run_id, _ranked.c.turn)
    .order_by(*_urgency(_ranked.c, _ranked.c.turn))
    .limit(bindparam("limit"))
    .subquery()
)
_row: list[Any] = [  # in the order of `OpenRun`'s fields
    _runs.run_id,
    _runs.user_id,
    _runs.status,
    _runs.attempt,
    _runs.adoptions,
    _runs.worker_id,
    _runs.cancel_at,
    _runs.queued_at,
    _runs.expires_at,
    func.coalesce(_runs.added, 0),
]
_OPEN_RUNS = (
    select(*_row).join(_first, _first.c.run_id == _runs.run_id).order_by(*_urgency(_runs, _first.c.turn))
)
_RUNS_OF = select(*_row).where(_runs.worker_id == bindparam("worker"))
_EXPIRED = (
    select(_runs.run_id)
    .where(_runs.status == WAITING, _runs.expires_at <= bindparam("now"))
    .order_by(_runs.expires_at)
    .limit(bindparam("limit"))
)
_WORKERS = select(_runs.worker_id).where(_runs.worker_id.is_not(None)).distinct()


def write_control(
    connection: Connection, changes: Mapping[str, Sequence[EncodedEvent]], heads: Mapping[str, Head]
) -> None:
    """Update the control tables with the events of each run, in one statement per kind.

    Args:
        heads: of the runs after these events.
    """
    statements: dict[Any, list[dict[str, Any]]] = {
        _INSERT: [], _JOIN_SESSION: [], _START: [], _CANCEL: [], _LEAVE_SESSION: [], _DELETE: [],
        _PURGE: [], _FORGET: [], _RELEASE: [], _ADD: [],
    }  # fmt: skip
    released: dict[str, dict[str, Any]] = {}
    for run_id, events in sorted(changes.items()):
        for event in events:
            if event.ends:
                statements[_LEAVE_SESSION].append({"closed": run_id})
                statements[_DELETE].append({"closed": run_id})
            elif event.type == Queued.type:
                queued = read_queued(event)
                statements[_INSERT].append(_queued(run_id, event.at, queued))
                if queued.session_id is not None:
                    conversation = {"user": queued.user_id, "session": queued.session_id}
                    statements[_JOIN_SESSION].append({**conversation, "run": run_id})
            elif event.type == Started.type:
                statements[_START].append(_started(run_id, event))
                released.pop(run_id, None)
            elif event.type in (InputRequested.type, InputGiven.type):
                released[run_id] = _released(run_id, event, released.get(run_id))
            elif event.type == InputAdded.type:
                statements[_ADD].append({"run": run_id, "seq": heads[run_id].added})
            elif event.type == CancelRequested.type:
                statements[_CANCEL].append({"run": run_id, "at": event.at})
            elif event.type == Purged.type:
                queued = read_queued(event)
                statements[_PURGE].append({"run_id": run_id})
                if queued.session_id is not None:
                    conversation = {"user": queued.user_id, "session": queued.session_id}
                    statements[_FORGET].append({**conversation, "purged": run_id})
    statements[_RELEASE] += released.values()
    for statement, parameters in statements.items():
        if parameters:
            connection.execute(statement, parameters)


def read_open_runs(
    connection: Connection, limit: int, exclude_workers: Collection[str] = ()
) -> list[OpenRun]:
    """See `OpenRuns.open_runs`."""
    parameters = {"limit": limit, "exclude_workers": sorted(exclude_workers)}
    return [OpenRun(*row) for row in connection.execute(_OPEN_RUNS, parameters)]


def read_runs_of(connection: Connection, worker_id: str) -> list[OpenRun]:
    """See `OpenRuns.runs_of`."""
    return [OpenRun(*row) for row in connection.execute(_RUNS_OF, {"worker": worker_id})]


def read_expired(connection: Connection, now: int, limit: int) -> list[str]:
    """See `OpenRuns.expired`."""
    return list(connection.execute(_EXPIRED, {"now": now, "limit": limit}).scalars())


def read_workers(connection: Connection) -> set[str]:
    """See `OpenRuns.workers`."""
    return set(connection.execute(_WORKERS).scalars())


def _queued(run_id: str, at: int, queued: QueuedRun) -> dict[str, Any]:
    _, session_id = session_of(queued) or (None, None)
    return {
        "run_id": run_id, "status": "queued", "user_id": queued.user_id, "session_id": session_id,
        "attempt": 0, "adoptions": 0, "worker_id": None, "queued_at": at, "cancel_at": None,
        "expires_at": None, "added": None,
    }  # fmt: skip


def _released(run_id: str, event: EncodedEvent, before: dict[str, Any] | None) -> dict[str, Any]:
    """The run's row after a request or an answer. `before`: after the previous event of the same commit."""
    given = msgspec.json.decode(event.data, type=Given)
    if event.type == InputGiven.type:
        return {"run": run_id, "now": WAITING if given.open else "queued", "expires": given.expires_at}
    times = [given.expires_at, before["expires"] if before else None]
    earliest = min((at for at in times if at is not None), default=None)
    return {"run": run_id, "now": WAITING, "expires": earliest}


def _started(run_id: str, event: EncodedEvent) -> dict[str, Any]:
    started = msgspec.json.decode(event.data, type=Started)
    return {
        "run": run_id, "number": started.attempt, "worker": started.worker_id,
        "adopted": int(started.reason == "adopted"),
    }  # fmt: skip
