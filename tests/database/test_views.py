"""The views for SQL, on every kind of database: their answers are those of the reports and of the log."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect, make_url, text

from runstore.core.audit import SAY_WHO, AuditItem, AuditQuery, audit_event
from runstore.core.codec import encode
from runstore.core.depth import MAX_DEPTH
from runstore.core.events import (
    AuditErased,
    AuditProjection,
    AuditRead,
    CancelRequested,
    Completed,
    Custom,
    InputAdded,
    InputGiven,
    InputRequested,
    Posted,
    Queued,
)
from runstore.core.ids import new_run_id, reads_id
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.database.opening import open_database
from runstore.database.views import VIEWS
from runstore.eventlog.admission import Append
from runstore.eventlog.sql_store import SqlStore
from runstore.maintenance.projections import Projections
from runstore.projections.prices import NANO
from runstore.projections.registry import shipped
from runstore.store.reports.runs import RunsQuery, report_runs
from runstore.store.reports.usage import UsageQuery, report_usage
from runstore.store.whole_log import read_matching
from tests.kit.database import run_list
from tests.kit.pages import fenced
from tests.kit.slow import mostly_slow
from tests.projections.history import History
from tests.projections.test_shipped import PRICES
from tests.servers.databases import DATABASES, empty_database
from tests.store.reports.test_reports import fill

HISTORY = History(29).write(30)
VALUES = [
    "word", "", 'a "quoted" ü \\ line\n', "null", "true", 5, -1, 0, 2.5, 1 << 53, None, True, False,
    [1, "a", None, True], [], {"a": {"b": [False]}}, {}, {"x": '","data":[', "data": 10**30, "by": 1.0},
    json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH),
]  # fmt: skip
HOLDS_NUL = "a\0\0\\u0000\\\0b"
NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # in JSON


@pytest.fixture(scope="module", params=mostly_slow(DATABASES, "sqlite", "postgresql"))
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with empty_database(request.param, tmp_path_factory.mktemp("views")) as url:
        yield url


@pytest.fixture(scope="module")
def database(url: str) -> Iterator[Database]:
    with closing(open_dialect(make_url(url), statement_timeout=False)) as dialect:
        database = Database(dialect)
        fill(database, HISTORY)
        if make_url(url).get_backend_name() == "postgresql":  # its positions were not given by the database
            with database.connect() as connection:
                connection.execute(text("SELECT setval(pg_get_serial_sequence('events', 'position'), 90000)"))
                connection.commit()
        noted = new_run_id()
        said: list[Any] = [
            Queued(agent="demo", user_id="ann", input="hi"),
            Posted("custom.note", {"a": [1]}, by="bob"),
        ]
        said += [Posted("custom.value", value, by="bob") for value in VALUES]
        said += [
            Posted("custom.nul", {"x": HOLDS_NUL}, by="bob"),
            InputAdded("only the inner ones", by="bob"),
            InputRequested(agent="demo", request_id="1.1", prompt="go on?"),
            InputGiven("1.1", answer={"by": "ann"}, by="bob"),
            InputGiven("1.2", answer="by default"),
            CancelRequested(by="bob", reason=HOLDS_NUL),
        ]
        said += [Custom("custom.own", value) for value in VALUES]
        events = [encode(event) for event in (*said, Completed(result={}))]
        audited = [
            AuditRead(by="carol", what="record", run_id=noted),
            AuditErased(by="carol", reason="asked", user_id="dan", runs=0, events=0),
            AuditProjection(by="carol", command="pause", projection="usage"),
        ]
        reads = [encode(event) for event in audited]
        with closing(SqlStore(database, [run_list()])) as store:
            store.commit([Append(noted, events[:1]), Append(reads_id(noted), reads)])
            store.commit([Append(noted, events[1:-1])])
            store.commit([Append(noted, events[-1:])])
        Projections(database, shipped(PRICES)).run()
        yield database


@pytest.fixture
def connection(database: Database, url: str) -> Iterator[Connection]:
    """The access that any other program has."""
    engine = create_engine(url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def rows(connection: Connection, query: str, **values: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(query), values).mappings()]


def moment(value: Any) -> datetime:
    """A time as each driver gives it."""
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    assert isinstance(value, datetime)
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def parsed(connection: Connection, value: Any) -> Any:
    """A JSON value, which only PostgreSQL's driver decodes."""
    return value if connection.dialect.name == "postgresql" else json.loads(value)


def as_shown(connection: Connection, value: Any) -> Any:
    """A JSON value; PostgreSQL has U+FFFD for NUL."""
    text = json.dumps(value)
    return json.loads(NUL.sub(r"\1\\ufffd", text) if connection.dialect.name == "postgresql" else text)


def at(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1_000, UTC)


def test_audit_runs_has_what_the_report_has(connection: Connection) -> None:
    expected = report_runs(connection, RunsQuery(limit=1_000)).runs
    found = rows(connection, "SELECT * FROM audit_runs ORDER BY run_id DESC")
    assert len(found) == len(expected) == 31
    for row, run in zip(found, expected, strict=True):
        assert (row["run_id"], row["user_id"], row["agent"]) == (run.run_id, run.user_id, run.agent)
        assert (row["session_id"], row["workspace_id"]) == (run.session_id, run.workspace_id)
        assert (row["status"], row["error_code"]) == (run.status, run.error_code)
        assert row["stopped_by"] == run.stopped_by
        assert moment(row["created_at"]) == at(run.created_at)
        assert row["completed_at"] is None or moment(row["completed_at"]) == at(run.completed_at)
        assert row["created_ms"] == run.created_at
        assert (bool(row["deleted"]), bool(row["purged"])) == (run.deleted, run.purged)
        assert (row["duration_ms"], row["calls"], row["tokens"]) == (run.duration_ms, run.calls, run.tokens)
        assert float(row["cost"]) == pytest.approx(run.cost / NANO)
        assert row["currency"] == run.currency
        assert parsed(connection, row["state"])["run_id"] == run.run_id


def test_audit_usage_has_what_the_report_has(connection: Connection) -> None:
    group = ("day", "user", "agent", "model")
    expected = {
        (row.day, row.user_id, row.agent, row.model): row
        for row in report_usage(connection, UsageQuery(group=group))
    }
    found = rows(connection, "SELECT * FROM audit_usage")
    assert {(str(row["day"]), row["user_id"], row["agent"], row["model"]) for row in found} == {*expected}
    for row in found:
        assert isinstance(row["day"], date) or connection.dialect.name == "sqlite"
        used = expected[str(row["day"]), row["user_id"], row["agent"], row["model"]]
        names = ("runs", "failed", "stopped", "calls", "input_tokens", "output_tokens", "reasoning_tokens")
        assert [row[name] for name in names] == [getattr(used, name) for name in names]
        assert float(row["cost"]) == pytest.approx(used.cost / NANO)


def test_audit_events_has_what_the_audit_log_has(connection: Connection) -> None:
    log = read_matching(connection, AuditQuery(), 0, 1 << 40, 10_000).events
    found = rows(connection, "SELECT * FROM audit_events ORDER BY position")
    assert len(found) == len(log) > 100
    for row, event in zip(found, log, strict=True):
        shown = audit_event(AuditItem(event, row["user_id"], row["agent"]))
        assert (row["position"], row["run_id"], row["seq"]) == (shown.position, shown.run_id, shown.seq)
        assert (row["type"], row["caused_by"]) == (shown.type, shown.by)
        assert moment(row["at"]) == datetime.fromisoformat(shown.at)
        assert row["at_ms"] == event.at
        assert parsed(connection, row["data"]) == as_shown(connection, shown.data)


def test_every_type_that_says_who_caused_it_says_so_in_the_view(connection: Connection) -> None:
    found = rows(connection, "SELECT DISTINCT type FROM audit_events WHERE caused_by IS NOT NULL")
    assert {row["type"] for row in found if not row["type"].startswith("custom.")} == SAY_WHO
    [given, default] = rows(
        connection, "SELECT caused_by FROM audit_events WHERE type = 'input.given' ORDER BY position"
    )
    assert (given["caused_by"], default["caused_by"]) == ("bob", None)


def test_databases_have_the_view_that_names_these_types() -> None:
    """If this fails for a new type, add a migration that calls `renew_views`, as 0014 does."""
    assert sorted(SAY_WHO) == [
        "audit.erased", "audit.projection", "audit.read", "cancel.requested", "input.added", "input.given",
        "run.deleted", "run.purged",
    ]  # fmt: skip


def test_a_posted_event_and_a_read_have_their_users(connection: Connection) -> None:
    [note] = rows(connection, "SELECT * FROM audit_events WHERE type = 'custom.note' AND caused_by = 'bob'")
    assert (note["user_id"], parsed(connection, note["data"])) == ("ann", {"a": [1]})
    [read] = rows(connection, "SELECT * FROM audit_events WHERE type = 'audit.read'")
    assert (read["user_id"], read["caused_by"]) == ("ann", "carol")


@pytest.mark.parametrize("type", ["custom.value", "custom.own"])
def test_the_data_of_any_custom_event_are_json(connection: Connection, type: str) -> None:
    query = f"SELECT data FROM audit_events WHERE type = '{type}' ORDER BY position"
    found = [parsed(connection, row["data"]) for row in rows(connection, query)]
    assert json.dumps(found) == json.dumps(VALUES)  # as True equals 1 in Python


def test_no_event_with_nul_ends_a_query(connection: Connection) -> None:
    query = "SELECT type, caused_by, data FROM audit_events WHERE type IN ('custom.nul', 'cancel.requested')"
    found = [row for row in rows(connection, query) if row["caused_by"] == "bob"]
    assert [row["type"] for row in found] == ["custom.nul", "cancel.requested"]
    note, stop = [parsed(connection, row["data"]) for row in found]
    assert note["x"] == stop["reason"] == as_shown(connection, HOLDS_NUL)
    if connection.dialect.name == "postgresql":
        [told] = rows(connection, "SELECT data ->> 'x' AS x FROM audit_events WHERE type = 'custom.nul'")
        assert told["x"] == HOLDS_NUL.replace("\0", "\ufffd")


def plan(connection: Connection, query: str) -> str:
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET enable_seqscan = off"))  # as the tables are small
    found = connection.execute(text(f"{explain} {query}")).all()
    return " ".join(str(tuple(row)) for row in found)


# By the beginning of a query on the page: what its plan names, on each kind of database.
SERVED = {
    "SELECT * FROM audit_events WHERE position": ("PRIMARY", "pk_events", "INTEGER PRIMARY"),
    "SELECT * FROM audit_events WHERE run_key = ": ("uq_events_run_id_seq", "sqlite_autoindex_events"),
    "SELECT user_id, sum(tokens) FROM audit_runs": ("ix_runs_created_at",),
    "SELECT day, user_id, sum(cost) FROM audit_usage": ("usage_a", "usage_b", "'t'"),
}
READS_ALL = ("SCAN r", "SCAN e", "Seq Scan on runs", "Seq Scan on events", "'r', 'ALL'", "'r', 'index'")
PAGE = (Path(__file__).parents[2] / "docs/reference/views.md").read_text(encoding="utf-8")


def documented() -> list[str]:
    """The queries of the section "Queries that an index serves"."""
    (block,) = fenced(PAGE.partition("\n## Queries that an index serves\n")[2], "sql")
    return [" ".join(query.split()) for query in re.split(r"; *(?:-- \w+)?\n", block) if query.strip()]


@pytest.mark.parametrize("query", documented())
def test_an_index_serves_each_query_of_the_page(connection: Connection, query: str) -> None:
    (indexes,) = [names for begin, names in SERVED.items() if query.startswith(begin)]
    if "run_key" in query and ("bytea" in query) != (connection.dialect.name == "postgresql"):
        return  # the form of the other databases
    said = plan(connection, query.replace(":", "\\:"))
    assert any(index in said for index in indexes), said
    assert not any(words in said for words in READS_ALL), said


def test_the_page_has_queries_of_all_these_kinds() -> None:
    assert {begin for begin in SERVED for query in documented() if query.startswith(begin)} == {*SERVED}


@pytest.mark.parametrize("column", ["user_id", "agent", "session_id", "status"])
def test_an_index_serves_a_filter_of_runs_on_sqlite(connection: Connection, column: str) -> None:
    if connection.dialect.name == "sqlite":
        said = plan(connection, f"SELECT * FROM audit_runs WHERE {column} = 'x'")
        assert "SEARCH r USING INDEX ix_runs_" in said


def test_the_views_follow_a_rebuild_and_a_drop(connection: Connection, database: Database) -> None:
    projections = Projections(database, shipped(PRICES))
    before = rows(connection, "SELECT * FROM audit_usage ORDER BY 1, 2, 3, 4, 5")
    for _ in range(2):  # each makes the other tables live
        connection.rollback()
        assert projections.rebuild("usage").equal
        assert rows(connection, "SELECT * FROM audit_usage ORDER BY 1, 2, 3, 4, 5") == before
    connection.rollback()
    projections.drop("usage")
    assert rows(connection, "SELECT * FROM audit_usage") == []
    connection.rollback()
    projections.resume("usage")
    projections.run()
    assert rows(connection, "SELECT * FROM audit_usage ORDER BY 1, 2, 3, 4, 5") == before


def test_a_database_without_projections_has_the_views(tmp_path: Path, url: str) -> None:
    kind = make_url(url).get_backend_name()
    with empty_database("mysql" if kind in ("mysql", "mariadb") else kind, tmp_path) as fresh:
        engine = create_engine(fresh)
        with engine.connect() as connection:
            assert {*VIEWS} <= {*inspect(connection).get_view_names()}
            assert [rows(connection, f"SELECT * FROM {name}") for name in VIEWS] == [[], [], []]
            columns = {name: [c["name"] for c in inspect(connection).get_columns(name)] for name in VIEWS}
        engine.dispose()
    page = Path("docs/reference/views.md").read_text(encoding="utf-8")
    for name, its in columns.items():
        section = page.split(f"## `{name}`")[1].split("\n## ")[0]
        documented = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert documented == its


@pytest.mark.parametrize("version", ["0012", "0013"])
def test_an_upgrade_renews_the_views_of_an_older_release(tmp_path: Path, url: str, version: str) -> None:
    kind = make_url(url).get_backend_name()
    with empty_database(kind, tmp_path) as older:
        engine = create_engine(older)
        with engine.connect() as connection:
            new = definition(connection)
            columns = ", ".join(c["name"] for c in inspect(connection).get_columns("audit_events"))
            change = "" if kind == "sqlite" else "OR REPLACE "
            if kind == "sqlite":
                connection.exec_driver_sql("DROP VIEW audit_events")
            old = f"SELECT {columns} FROM ({new.rstrip(';')}) AS older WHERE 1 = 0".replace("%", "%%")
            connection.exec_driver_sql(f"CREATE {change}VIEW audit_events AS {old}")
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))
            connection.commit()
        for _ in range(2):
            with closing(open_database(older).dialect), engine.connect() as connection:
                assert definition(connection) == new
        engine.dispose()


def definition(connection: Connection) -> str:
    """The query of the view `audit_events`."""
    defined = inspect(connection).get_view_definition("audit_events") or ""
    return defined.partition(" AS ")[2] if defined.startswith("CREATE") else defined
