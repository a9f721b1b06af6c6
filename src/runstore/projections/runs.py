"""The run list: every run's state, kept in the append's own transaction, so it is never behind the log."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Table, bindparam, delete, insert, select, update

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.events import Queued
from runstore.core.run import Run, Status, evolve, fold
from runstore.projections import schema

History = Callable[[Connection, str], Sequence[RecordedEvent]]
READ_AT_ONCE = 500  # runs of one SELECT; SQLite takes 32,766 parameters

_decode_state = msgspec.json.Decoder(Run).decode
_encode_state = msgspec.json.Encoder().encode


class RunList:
    """The inline projection `runs`.

    A run whose row is missing, since the projection was dropped, is folded anew from its `history`.
    """

    name = "runs"

    def __init__(self, history: History, table: Table = schema.runs) -> None:
        self.table = table
        self._history = history

    def apply(
        self, connection: Connection, changes: Mapping[str, Sequence[EncodedEvent | RecordedEvent]]
    ) -> None:
        """See `InlineProjection.apply`."""
        older = [run_id for run_id, events in changes.items() if events[0].type != Queued.type]
        known = self._states(connection, older)
        added, changed = [], []
        for run_id, events in sorted(changes.items()):
            run = known.get(run_id)
            if run is not None:
                changed.append(_row(_advance(run, events)))
            elif events[0].type == Queued.type:
                added.append(_row(_advance(Run(run_id), events)))
            else:
                added.append(_row(fold(run_id, self._history(connection, run_id))))
        if added:
            connection.execute(insert(self.table), added)
        if changed:
            connection.execute(self._update, [row | {"id": row["run_id"]} for row in changed])

    def drop(self, connection: Connection) -> int:
        """Forget every run; returns how many."""
        return connection.execute(delete(self.table)).rowcount

    @property
    def _update(self) -> Any:
        values: dict[str, Any] = {c.name: bindparam(c.name) for c in self.table.c if c.name != "run_id"}
        return update(self.table).where(self.table.c.run_id == bindparam("id")).values(values)

    def _states(self, connection: Connection, run_ids: Sequence[str]) -> dict[str, Run]:
        states: dict[str, Run] = {}
        for start in range(0, len(run_ids), READ_AT_ONCE):
            wanted = self.table.c.run_id.in_(run_ids[start : start + READ_AT_ONCE])
            rows = connection.execute(select(self.table.c.run_id, self.table.c.state).where(wanted))
            states |= {run_id: _decode_state(state) for run_id, state in rows}
        return states


class RunQuery(Struct, frozen=True, kw_only=True):
    """Which runs to list. `since`, `until`: when they were queued, ms since 1970, both inclusive."""

    user_id: str | None = None
    status: Status | None = None
    agent: str | None = None
    agent_prefix: str | None = None
    session_id: str | None = None
    workspace_id: str | None = None
    since: int | None = None
    until: int | None = None
    before: str | None = None  # a run id: go on after this one
    purged: bool = False  # instead of those that are there; also if they were deleted before
    limit: int = 100


def find_runs(connection: Connection, query: RunQuery) -> list[Run]:
    """The runs that match, newest first."""
    table = schema.runs.c
    conditions: list[ColumnElement[bool]] = [table.purged == int(query.purged)]
    if not query.purged:
        conditions.append(table.deleted == 0)
    for column, value in (
        (table.user_id, query.user_id),
        (table.status, query.status),
        (table.agent_name, query.agent),
        (table.session_id, query.session_id),
        (table.workspace_id, query.workspace_id),
    ):
        if value is not None:
            conditions.append(column == value)
    if query.agent_prefix is not None:
        conditions.append(table.agent_name.startswith(query.agent_prefix, autoescape=True))
    if query.since is not None:
        conditions.append(table.created_at >= query.since)
    if query.until is not None:
        conditions.append(table.created_at <= query.until)
    if query.before is not None:
        conditions.append(table.run_id < query.before)
    rows = connection.execute(
        select(table.state).where(*conditions).order_by(table.run_id.desc()).limit(query.limit)
    )
    return [_decode_state(state) for (state,) in rows]


def find_run(connection: Connection, run_id: str) -> Run | None:
    state = connection.execute(select(schema.runs.c.state).where(schema.runs.c.run_id == run_id)).scalar()
    return None if state is None else _decode_state(state)


def _advance(run: Run, events: Sequence[EncodedEvent | RecordedEvent]) -> Run:
    for event in events:
        run = evolve(run, event)
    return run


def _row(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id, "user_id": run.user_id, "agent_name": run.agent_name,
        "session_id": run.session_id, "status": run.status, "created_at": run.created_at,
        "completed_at": run.completed_at, "deleted": int(run.deleted), "state": _encode_state(run),
        "workspace_id": run.workspace_id, "purged": int(run.purged_at is not None),
    }  # fmt: skip
