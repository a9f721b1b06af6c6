"""The sessions of each user: title, times, and counts of runs.

Deleted runs do not count. A purged run counts, but can no longer give its session the title.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    SmallInteger,
    Table,
    func,
    select,
)
from typing_extensions import override

from runstore.core.codec import RecordedEvent
from runstore.core.depth import decoded
from runstore.core.events import ENDINGS, Deleted, Outcome, Purged, Queued
from runstore.core.folds.run_text import input_text
from runstore.core.outcomes import OUTCOME_COLUMNS, outcome_of
from runstore.core.ports import EventFilter
from runstore.core.queued import read_queued
from runstore.database.columns import Name
from runstore.database.keys import in_pieces, is_one_of, rows_with
from runstore.database.upserts import delete_rows, put_rows
from runstore.projections.projection import Projection

MAX_TITLE = 200  # characters
COUNTS: dict[str, str] = {"open": "open", **OUTCOME_COLUMNS}  # the column of each status

_tables = MetaData()

SESSIONS = Table(
    "sessions",
    _tables,
    Column("user_id", Name(255), primary_key=True),
    Column("session_id", Name(255), primary_key=True),
    Column("title", Name(MAX_TITLE)),
    Column("title_position", BigInteger),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("runs", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS.values()),
    Index("ix_sessions_user_id_last_at", "user_id", "last_at", "session_id"),
)
RUNS = Table(
    "sessions_runs",
    _tables,
    Column("run_id", Name(36), primary_key=True),
    Column("user_id", Name(255), nullable=False),
    Column("session_id", Name(255), nullable=False),
    Column("position", BigInteger),
    Column("title", Name(MAX_TITLE)),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("status", Name(16), nullable=False),
    Column("deleted", SmallInteger, nullable=False),
    Index("ix_sessions_runs_user_id_session_id", "user_id", "session_id"),
)

Key = tuple[str, str]  # user and session


class _Run(Struct, frozen=True):
    """A run of a session. `position`: of its first event. It and `title`: None if it is deleted or purged."""

    run_id: str
    user_id: str
    session_id: str
    position: int | None
    title: str | None
    created_at: int
    ended_at: int | None = None
    status: str = "open"
    deleted: int = 0

    @property
    def key(self) -> Key:
        return self.user_id, self.session_id

    @property
    def last_at(self) -> int:
        return max(self.created_at, self.ended_at or 0)


class _Session(Struct):
    user_id: str
    session_id: str
    title: str | None = None
    title_position: int | None = None
    first_at: int = 0
    last_at: int = 0
    runs: int = 0
    open: int = 0
    succeeded: int = 0
    failed: int = 0
    stopped: int = 0

    def count(self, run: _Run, sign: int) -> None:
        if not run.deleted:
            self.runs += sign
            column = COUNTS[run.status]
            setattr(self, column, getattr(self, column) + sign)

    def widen(self, run: _Run) -> None:
        """Make room for a run in the session's times, and take its title if it is the first one."""
        if run.deleted:
            return
        self.first_at = min(self.first_at or run.created_at, run.created_at)
        self.last_at = max(self.last_at, run.last_at)
        if run.position is not None and (self.title_position or run.position) >= run.position:
            self.title, self.title_position = run.title, run.position


class SessionsProjection(Projection):
    """The projection `sessions`."""

    name: ClassVar[str] = "sessions"
    reads: ClassVar[EventFilter | None] = EventFilter(
        types=frozenset({Queued.type, Deleted.type, Purged.type, *ENDINGS})
    )
    tables: Sequence[Table] = (SESSIONS, RUNS)

    @override
    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        sessions, runs = self.tables
        begun = {event.run_id for event in events if event.type == Queued.type}
        before = _read_runs(connection, runs, sorted({e.run_id for e in events} - begun))
        after = dict(before)
        for event in events:
            if (run := _after(after.get(event.run_id), event)) is not None:
                after[event.run_id] = run
        changed = {run_id: run for run_id, run in after.items() if run != before.get(run_id)}
        put_rows(connection, runs, [msgspec.structs.asdict(run) for run in changed.values()])
        left = {before[run_id].key for run_id in changed if run_id in before}
        keys = sorted({run.key for run in changed.values()} | left)
        known = _read_sessions(connection, sessions, keys)
        shrunk: set[Key] = set()
        for run_id, run in changed.items():
            old = before.get(run_id)
            if old is not None:
                known.setdefault(old.key, _Session(*old.key)).count(old, -1)
                # An erased run is purged into a session of another name.
                if (old.position is not None and run.position is None) or old.key != run.key:
                    shrunk.add(old.key)
            session = known.setdefault(run.key, _Session(*run.key))
            session.count(run, 1)
            session.widen(run)
        _measure_again(connection, runs, [known[key] for key in sorted(shrunk) if known[key].runs])
        rows = [msgspec.structs.asdict(session) for _, session in sorted(known.items())]
        put_rows(connection, sessions, [row for row in rows if row["runs"]])
        delete_rows(connection, sessions, [row for row in rows if not row["runs"]])


class _Purged(Struct, frozen=True):
    user_id: str
    status: Outcome
    created_at: int
    completed_at: int
    session_id: str | None = None
    deleted: bool = False


_read_purged = msgspec.json.Decoder(_Purged).decode


def _after(run: _Run | None, event: RecordedEvent) -> _Run | None:
    """A run after one more event; None: it belongs to no session, or its `run.purged` is yet to come."""
    if event.type == Queued.type:
        queued = read_queued(event)
        if queued.session_id is None:
            return None
        title = title_of(decoded(msgspec.json.decode, bytes(queued.input)))
        return _Run(event.run_id, queued.user_id, queued.session_id, event.position, title, event.at)
    if event.type == Purged.type:
        purged = _read_purged(event.data)
        if purged.session_id is None:
            return None
        return _Run(
            event.run_id, purged.user_id, purged.session_id, None, None, purged.created_at,
            purged.completed_at, purged.status, int(purged.deleted),
        )  # fmt: skip
    if run is None:
        return None
    if event.type == Deleted.type:
        return replace(run, deleted=1, position=None, title=None)
    if event.ends:
        return replace(run, status=outcome_of(event.type), ended_at=event.at)
    return run


def title_of(input: Any) -> str:
    """One line that stands for a session: the beginning of the text of its first input."""
    line = " ".join(input_text(input)[: 8 * MAX_TITLE].replace("\0", " ").split())
    return line if len(line) <= MAX_TITLE else line[: MAX_TITLE - 1] + "…"


def _read_runs(connection: Connection, runs: Table, run_ids: list[str]) -> dict[str, _Run]:
    return {row.run_id: _Run(*row) for row in rows_with(connection, select(runs), runs.c.run_id, run_ids)}


def _read_sessions(connection: Connection, sessions: Table, keys: list[Key]) -> dict[Key, _Session]:
    found: dict[Key, _Session] = {}
    for some in in_pieces(keys):
        wanted = is_one_of((sessions.c.user_id, sessions.c.session_id), some)
        rows = connection.execute(select(sessions).where(wanted))
        found |= {(row.user_id, row.session_id): _Session(*row) for row in rows}
    return found


def _measure_again(connection: Connection, runs: Table, shrunk: Sequence[_Session]) -> None:
    """Take times and titles from the runs that are left."""
    sessions = {(session.user_id, session.session_id): session for session in shrunk}
    for some in in_pieces(list(sessions)):
        of_them = is_one_of((runs.c.user_id, runs.c.session_id), some)
        first_at, position = func.min(runs.c.created_at), func.min(runs.c.position)
        last_at = func.max(func.coalesce(runs.c.ended_at, runs.c.created_at))
        measured = (
            select(runs.c.user_id, runs.c.session_id, first_at, last_at, position)
            .where(of_them, runs.c.deleted == 0)
            .group_by(runs.c.user_id, runs.c.session_id)
        )
        for user_id, session_id, first, last, title_position in connection.execute(measured).all():
            session = sessions[user_id, session_id]
            session.first_at, session.last_at = first, last
            session.title, session.title_position = None, title_position
        positions = [sessions[key].title_position for key in some if sessions[key].title_position]
        titled = select(runs.c.user_id, runs.c.session_id, runs.c.title).where(
            of_them, runs.c.position.in_(positions)
        )
        for user_id, session_id, title in connection.execute(titled):
            sessions[user_id, session_id].title = title
