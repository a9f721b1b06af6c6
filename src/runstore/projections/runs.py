"""The run list: each run's state, updated in the append's own transaction, so it never lags the log.

A row is rewritten at each change of the run's state, so it stays small: large values are only in the log.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    delete,
    select,
)

from runstore.core.codec import RecordedEvent
from runstore.core.depth import readable
from runstore.core.events import Queued
from runstore.core.ids import first_run_id
from runstore.core.run import LISTED_BYTES, RUN_DEPTH, Run, Status, evolve, fold, shortened
from runstore.database.keys import rows_with
from runstore.database.tables import INDEXED, runs, runs_shadow, select_listed
from runstore.database.upserts import insert_rows, update_rows
from runstore.eventlog.queries import EVOLVING, read_evolving
from runstore.projections.projection import Projection, Slot

LISTED_AT_ONCE = 100  # runs of one SELECT for a list, whose pages are limited in bytes
MAX_LIST_BYTES = 1 << 20  # bytes of states in one page of a list; the run that crosses it is the last
MAX_SCANNED = 10_000  # runs examined for one page, which bounds a filter that matches none
ID_SLACK_MS = 60_000  # milliseconds between the time in a run's id and that of its first event, made together

_read_run = msgspec.json.Decoder(Run).decode
_encode_state = msgspec.json.Encoder().encode


class RunList(Projection):
    """The run list. A run whose row is missing, because the list was dropped, is folded from the log."""

    name = "runs"
    inline = True
    in_schema = True  # a change of its shape is a migration
    reads = EVOLVING
    tables = (runs,)

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        changes: dict[str, list[RecordedEvent]] = defaultdict(list)
        for event in events:
            changes[event.run_id].append(event)
        older = [run_id for run_id, its in changes.items() if its[0].type != Queued.type]
        known = self._states(connection, older)
        added: list[dict[str, Any]] = []
        changed: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for run_id, its in sorted(changes.items()):
            run = known.get(run_id)
            if run is not None:
                row, before = _row(_advance(run, its)), _listed(run)
                # A column that is set costs a change of each index that has it, even if its value stays.
                changed[tuple(name for name in row if row[name] != before.get(name))].append(row)
            elif its[0].type == Queued.type:
                added.append(_row(_advance(Run(run_id), its)))
            else:
                added.append(_row(fold(run_id, read_evolving(connection, run_id))))
        if added:
            insert_rows(connection, self._table, added)
        for columns, rows in changed.items():
            update_rows(connection, self._table, columns, rows)

    def on(self, slot: Slot) -> "RunList":
        bound = RunList()
        bound.tables = (runs if slot == "a" else runs_shadow,)
        return bound

    def create(self, connection: Connection) -> None:
        """The tables always exist."""

    def drop(self, connection: Connection) -> None:
        """Empty the list; a rebuild fills it again."""
        connection.execute(delete(self._table))

    @property
    def _table(self) -> Table:
        return self.tables[0]

    def _states(self, connection: Connection, run_ids: Sequence[str]) -> dict[str, Run]:
        table = self._table.c
        rows = rows_with(connection, select(table.run_id, table.state), table.run_id, run_ids)
        return {run_id: decode_state(state) for run_id, state in rows}


class RunQuery(Struct, frozen=True, kw_only=True):
    """A filter for the run list.

    `since`, `until`: when runs were queued, both inclusive. UTC, milliseconds since 1970.
    """

    user_id: str | None = None
    status: Status | None = None
    agent: str | None = None
    agent_prefix: str | None = None
    session_id: str | None = None
    workspace_id: str | None = None
    since: int | None = None
    until: int | None = None
    before: str | None = None  # a run id: continue after this one
    purged: bool = False  # only purged runs, including those deleted before
    deleted: bool | None = False  # only deleted runs; None: these as well
    limit: int = 100


class RunsFound(Struct, frozen=True):
    """A page of a list.

    `next` is the `before` of the following page, which may be empty; None on the last page. A page ends at
    the query's limit, at MAX_LIST_BYTES, or after examining MAX_SCANNED runs.
    """

    runs: list[Run]
    next: str | None


def find_runs(connection: Connection, query: RunQuery) -> RunsFound:
    """The matching runs, newest first, without large values: see `Run.truncated`."""
    kinds = (False, True) if query.deleted is None else (query.deleted,)  # each in an index of its own
    found = [_find_ids(connection, replace(query, deleted=kind)) for kind in kinds]
    following = max((each.following for each in found if each.following), default=None)
    known = [run_id for each in found for run_id in each.run_ids if following is None or run_id >= following]
    matching = sorted(known, reverse=True)
    if len(matching) > query.limit:
        matching = matching[: query.limit]
        following = matching[-1]
    page, rest = _read_listed(connection, matching)
    return RunsFound(page, page[-1].run_id if rest else following)


class _Ids(Struct, frozen=True):
    """The ids of matching runs, newest first. `following`: the place after which there may be more."""

    run_ids: list[str]
    following: str | None


def _find_ids(connection: Connection, query: RunQuery) -> _Ids:
    newest, others = _split(query)
    matching = list(connection.execute(_matching(query, newest, others)).scalars())
    if len(matching) > query.limit:
        return _Ids(matching[: query.limit], matching[query.limit - 1])
    following = None
    if others:
        following = connection.execute(newest.limit(1).offset(MAX_SCANNED - 1)).scalar()
        if following is not None and matching:
            following = min(following, matching[-1])
    return _Ids(matching, following)


def find_run(connection: Connection, run_id: str) -> Run | None:
    """One run from the list."""
    state = connection.execute(select(runs.c.state).where(runs.c.run_id == run_id)).scalar()
    return None if state is None else decode_state(state)


def _split(query: RunQuery) -> tuple[Select[Any], list[ColumnElement[bool]]]:
    """The run ids that an index yields for a query, newest first, and the conditions left to check."""
    table = runs.c
    asked = {
        "user_id": query.user_id, "session_id": query.session_id, "agent_name": query.agent,
        "workspace_id": query.workspace_id, "status": query.status,
    }  # fmt: skip
    equal = {name: table[name] == value for name, value in asked.items() if value is not None}
    by = next(columns for columns in INDEXED if equal.keys() >= set(columns))
    indexed = [equal.pop(name) for name in by] + [
        table.purged == int(query.purged), table.deleted == int(bool(query.deleted)),
    ]  # fmt: skip
    others = list(equal.values())
    if query.agent_prefix is not None:
        others.append(table.agent_name.startswith(query.agent_prefix, autoescape=True))
    if query.since is not None:
        others.append(table.created_at >= query.since)
        indexed.append(table.run_id >= first_run_id(query.since - ID_SLACK_MS))
    if query.until is not None:
        others.append(table.created_at <= query.until)
        indexed.append(table.run_id <= first_run_id(query.until + ID_SLACK_MS))
    if query.before is not None:
        indexed.append(table.run_id < query.before)
    return select_listed(by).where(*indexed).order_by(table.run_id.desc()), others


def _matching(query: RunQuery, newest: Select[Any], others: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """The ids of the matching runs, plus one more if there is a next page."""
    if not others:
        return newest.limit(query.limit + 1)
    scanned = newest.add_columns(and_(*others).label("matches")).limit(MAX_SCANNED).subquery()
    found = select(scanned.c.run_id).where(scanned.c.matches).order_by(scanned.c.run_id.desc())
    return found.limit(query.limit + 1)


def _read_listed(connection: Connection, run_ids: Sequence[str]) -> tuple[list[Run], bool]:
    """The runs that fit into a page; and whether more of them follow."""
    page: list[Run] = []
    size = 0
    for start in range(0, len(run_ids), LISTED_AT_ONCE):
        wanted = runs.c.run_id.in_(run_ids[start : start + LISTED_AT_ONCE])
        found = connection.execute(select(runs.c.state).where(wanted).order_by(runs.c.run_id.desc()))
        for state in found.scalars().all():
            page.append(_completed(connection, decode_state(state)))
            size += len(state)
            if size >= MAX_LIST_BYTES:
                return page, page[-1].run_id != run_ids[-1]
    return page, False


def is_outdated(run: Run) -> bool:
    """Whether an older release wrote the run's row, which therefore lacks fields until a rebuild."""
    return run.started_by is None and run.purged_at is None


def _completed(connection: Connection, run: Run) -> Run:
    if not is_outdated(run):
        return run
    return shortened(fold(run.run_id, read_evolving(connection, run.run_id)))


def _advance(run: Run, events: Sequence[RecordedEvent]) -> Run:
    for event in events:
        run = evolve(run, event)
    return run


def decode_state(state: bytes) -> Run:
    """A row's run, as in lists."""
    return _read_run(readable(state, RUN_DEPTH))


def _row(run: Run) -> dict[str, Any]:
    state = _encode_state(run)
    if len(state) > LISTED_BYTES:  # otherwise no part of it is larger
        state = _encode_state(shortened(run))
    return {**_listed(run), "state": state}


def _listed(run: Run) -> dict[str, Any]:
    """The columns by which a run is listed."""
    purged = run.purged_at is not None
    return {
        "run_id": run.run_id, "user_id": run.user_id, "agent_name": run.agent_name,
        "session_id": run.session_id, "status": run.status, "created_at": run.created_at,
        "completed_at": run.completed_at, "workspace_id": run.workspace_id, "purged": int(purged),
        "deleted": int(run.deleted and not purged),  # purged runs have their own list
    }  # fmt: skip
