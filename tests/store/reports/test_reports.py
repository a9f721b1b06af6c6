"""Questions about past runs, compared with a plain look at the log, on every kind of database."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, insert, make_url, update
from sqlalchemy.event import listen

from runstore.core.codec import decode
from runstore.core.errors import InvalidCursor, InvalidQuery, ProjectionNotBuilt
from runstore.core.events import Queued, ToolFailed, ToolStarted, Usage
from runstore.core.folds.run_text import words_of
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.database.tables import events, projections
from runstore.projections.registry import shipped
from runstore.projections.runner import ProjectionRunner
from runstore.projections.runs import RunList
from runstore.projections.text import text_of
from runstore.projections.usage import UsageProjection
from runstore.store.reports import conditions
from runstore.store.reports import search as searching
from runstore.store.reports.runs import ReportedRun, RunsQuery, report_runs
from runstore.store.reports.search import SearchQuery, search
from runstore.store.reports.sessions import list_sessions
from runstore.store.reports.tools import ToolsQuery, quantile, report_tools
from runstore.store.reports.usage import UsageQuery, report_usage
from tests.kit.slow import mostly_slow
from tests.projections.history import History
from tests.projections.test_shipped import PRICES
from tests.servers.databases import DATABASES, empty_database

HISTORY = History(23).write(60)


@pytest.fixture(scope="module", params=mostly_slow(DATABASES, "sqlite", "postgresql"))
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with the history, and all projections of it."""
    with (
        empty_database(request.param, tmp_path_factory.mktemp("reports")) as url,
        closing(open_dialect(make_url(url), statement_timeout=False)) as dialect,
    ):
        database = Database(dialect)
        fill(database, HISTORY)
        yield database


@pytest.fixture
def connection(filled: Database) -> Iterator[Connection]:
    """Without a transaction: a server ends a session that is idle in one, as on a busy machine."""
    with filled.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def fill(database: Database, history: History) -> None:
    rows = [
        {
            "position": event.position, "run_id": event.run_id, "seq": event.seq, "type": event.type,
            "v": event.version, "ends": int(event.ends), "at": event.at, "append_id": b"reported",
            "data": event.data,
        }
        for event in history.log
    ]  # fmt: skip
    with database.writing() as connection:
        connection.execute(insert(events), rows)
        RunList().apply(connection, history.log)
    ProjectionRunner(database, [each for each in shipped(PRICES) if not each.inline]).run(once=True)


def decoded(type: type[Any]) -> list[tuple[Any, Any]]:
    found = [(each, decode(each.type, each.version, each.data)) for each in HISTORY.appended]
    return [(recorded, event) for recorded, event in found if isinstance(event, type)]


def all_runs(connection: Connection, **query: Any) -> list[ReportedRun]:
    """Every run, page by page."""
    found: list[ReportedRun] = []
    after: str | None = None
    while True:
        page = report_runs(connection, RunsQuery(**query, after=after, limit=7))
        found += page.runs
        assert page.totals is not None
        assert page.totals.runs >= len(found)
        after = page.next
        if after is None:
            assert page.totals.tokens == sum(run.tokens for run in found)
            assert page.totals.cost == sum(run.cost for run in found)
            return found


def test_every_run_is_reported_deleted_and_purged_ones_too(connection: Connection) -> None:
    found = all_runs(connection)
    assert [run.run_id for run in found] == sorted({e.run_id for e in HISTORY.appended}, reverse=True)
    assert {run.run_id for run in found if run.purged} == {
        event.run_id for event in HISTORY.appended if event.type == "run.purged"
    }
    assert any(run.deleted for run in found)
    tokens: Counter[str] = Counter()
    for recorded, usage in decoded(Usage):
        tokens[recorded.run_id] += usage.input_tokens + usage.output_tokens
    assert {run.run_id: run.tokens for run in found if run.tokens} == +tokens


@pytest.mark.parametrize(
    ("sort", "field"), [("cost", "cost"), ("tokens", "tokens"), ("duration", "duration_ms")]
)
def test_runs_are_sorted_with_the_greatest_first(connection: Connection, sort: str, field: str) -> None:
    found = [(getattr(run, field), run.run_id) for run in all_runs(connection, sort=sort)]
    assert found == sorted(found, reverse=True)
    assert len(found) == 60
    ascending = [run.run_id for run in all_runs(connection, sort=sort, ascending=True)]
    assert ascending == [run_id for _, run_id in reversed(found)]


@pytest.mark.parametrize("sort", ["created", "failed"])
def test_any_order_can_be_reversed(connection: Connection, sort: str) -> None:
    found = [run.run_id for run in all_runs(connection, sort=sort)]
    assert [run.run_id for run in all_runs(connection, sort=sort, ascending=True)] == found[::-1]


def test_a_page_without_totals_does_not_sum_up(connection: Connection) -> None:
    asked: list[str] = []
    listen(connection, "before_cursor_execute", lambda *call: asked.append(call[2]))
    for totals in (True, False):
        asked.clear()
        page = report_runs(connection, RunsQuery(limit=3, totals=totals))
        assert (page.totals is not None) is totals
        assert any("sum(" in statement for statement in asked) is totals


def test_tables_of_another_version_are_not_read(connection: Connection) -> None:
    usage = update(projections).where(projections.c.name == "usage", projections.c.live == 1)
    connection.execute(usage.values(version=UsageProjection.version + 1))
    try:
        with pytest.raises(ProjectionNotBuilt, match="usage"):
            report_runs(connection, RunsQuery())
    finally:
        connection.execute(usage.values(version=UsageProjection.version))
        connection.commit()


def test_runs_are_filtered_by_what_they_are_and_used(connection: Connection) -> None:
    everything = all_runs(connection)
    middle = everything[30]
    for query, keep in (
        ({"user_id": "ann"}, lambda run: run.user_id == "ann"),
        ({"agent": "team", "status": "error"}, lambda run: (run.agent, run.status) == ("team", "error")),
        ({"session_id": "s-1"}, lambda run: run.session_id == "s-1"),
        ({"error_code": "timeout"}, lambda run: run.error_code == "timeout"),
        ({"stopped_by": "ann"}, lambda run: run.stopped_by == "ann"),
        ({"max_tokens": 1_000, "min_tokens": 1}, lambda run: 0 < run.tokens <= 1_000),
        ({"max_cost": 1_000_000}, lambda run: run.duration_ms is not None and run.cost <= 1_000_000),
        ({"max_duration_ms": 9_000}, lambda run: run.duration_ms <= 9_000),
        ({"min_tokens": 1_000}, lambda run: run.tokens >= 1_000),
        ({"min_cost": 1_000_000}, lambda run: run.cost >= 1_000_000),
        ({"min_duration_ms": 1_000_000}, lambda run: run.duration_ms >= 1_000_000),
        ({"since": middle.created_at}, lambda run: run.created_at >= middle.created_at),
        ({"until": middle.created_at}, lambda run: run.created_at <= middle.created_at),
    ):
        expected = list(filter(keep, everything))
        assert all_runs(connection, **query) == expected, query
        assert 0 < len(expected) < 60 or "stopped_by" in query, query


def stored_texts() -> list[tuple[Any, list[str]]]:
    """The words of each event that can be found."""
    purged = {event.run_id for event in HISTORY.log if event.type == "run.purged"}
    answered = {event.run_id for event in HISTORY.log if event.type == "llm.message"}
    found = []
    for event in HISTORY.log:
        said = event.type != "lifecycle.completed" or event.run_id not in answered
        if said and event.run_id not in purged:
            found.append((event, words_of(text_of(event.type, event.data))))
    return found


def test_runs_and_events_are_found_by_their_text(connection: Connection) -> None:
    for word in ("sun", "cafe", "北京", "weather"):
        expected = [event for event, words in stored_texts() if set(words_of(word)) <= set(words)]
        assert expected
        hits, before = [], None
        while True:
            page = search(connection, SearchQuery(text=word, before=before, limit=5))
            hits += page.hits
            before = page.next
            if before is None:
                break
        if word != "北京":  # a phrase, whose words may stand apart
            assert [hit.position for hit in hits] == sorted((e.position for e in expected), reverse=True)
            assert {run.run_id for run in all_runs(connection, text=word)} == {e.run_id for e in expected}
        assert all(set(words_of(word)) <= set(words_of(hit.snippet)) for hit in hits)


def test_a_page_of_hits_is_bounded_in_bytes(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = search(connection, SearchQuery(text="moon", limit=1_000)).hits
    monkeypatch.setattr(searching, "MAX_READ", 300)
    first = search(connection, SearchQuery(text="moon", limit=1_000))
    assert 0 < len(first.hits) < len(everything)
    hits, before = first.hits, first.next
    while before is not None:
        page = search(connection, SearchQuery(text="moon", limit=1_000, before=before))
        hits, before = hits + page.hits, page.next
    assert hits == everything


def test_a_search_leaves_out_other_users_and_deleted_runs(connection: Connection) -> None:
    everything = search(connection, SearchQuery(text="moon", limit=1_000)).hits
    of_ann = search(connection, SearchQuery(text="moon", user_id="ann", deleted=False, limit=1_000)).hits
    assert of_ann == [hit for hit in everything if hit.user_id == "ann" and not hit.deleted]
    assert any(hit.deleted for hit in everything)
    asked = search(connection, SearchQuery(text="moon", kind="input", limit=1_000)).hits
    assert asked == [hit for hit in everything if hit.kind == "input"]


def test_a_search_is_bounded_by_the_times_at_which_something_was_said(connection: Connection) -> None:
    everything = search(connection, SearchQuery(text="moon", limit=1_000)).hits
    times = sorted({hit.at for hit in everything})
    for since, until in ((times[1], None), (None, times[-2]), (times[1], times[-2]), (times[-1] + 1, None)):
        expected = [
            hit for hit in everything if (since or 0) <= hit.at and (until is None or hit.at <= until)
        ]
        hits, before = [], None
        while True:
            page = search(
                connection, SearchQuery(text="moon", since=since, until=until, before=before, limit=5)
            )
            hits, before = hits + page.hits, page.next
            if before is None:
                break
        assert hits == expected, (since, until)
        assert len(expected) < len(everything)


@pytest.mark.parametrize("filters", [{}, {"user_id": "ann"}, {"kind": "input"}, {"text": "moon sun"}])
def test_a_search_examines_more_matches_until_its_page_is_full(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, filters: dict[str, Any]
) -> None:
    query = SearchQuery(**{"text": "moon", "limit": 1_000} | filters)
    everything = search(connection, query).hits
    assert len(everything) > 3
    monkeypatch.setattr(searching, "FIRST_SCANNED", 2)
    monkeypatch.setattr(searching, "MAX_SCANNED", 7)
    for limit in (1, 3, 1_000):
        hits, before = [], None
        for _ in range(1_000):
            page = search(connection, replace(query, limit=limit, before=before))
            hits, before = hits + page.hits, page.next
            if before is None:
                break
        assert hits == everything


@pytest.mark.parametrize(
    "group", [("day",), ("user", "agent"), ("model",), ("day", "user", "agent", "model")]
)
def test_usage_is_summed_by_any_columns(connection: Connection, group: tuple[str, ...]) -> None:
    rows = report_usage(connection, UsageQuery(group=group))
    of = {recorded.run_id: queued for recorded, queued in decoded(Queued)}
    inputs: Counter[Any] = Counter()
    for recorded, usage in decoded(Usage):
        queued = of[recorded.run_id]
        key = {"user": queued.user_id, "agent": queued.agent, "model": usage.model or ""}
        inputs[tuple(key[name] for name in group if name != "day")] += usage.input_tokens
    found: Counter[Any] = Counter()
    for row in rows:
        key = {"user": row.user_id, "agent": row.agent, "model": row.model}
        found[tuple(key[name] for name in group if name != "day")] += row.input_tokens
    assert +found == +inputs
    assert all((row.day is not None) == ("day" in group) for row in rows)
    assert {row.currency for row in rows} <= {"", "USD"}
    if "model" not in group:
        assert sum(row.runs for row in rows) == 60


def test_usage_is_filtered(connection: Connection) -> None:
    everything = report_usage(connection, UsageQuery(group=("day", "user", "model")))
    day = everything[len(everything) // 2].day
    for query, keep in (
        ({"user_id": "bob"}, lambda row: row.user_id == "bob"),
        ({"model": "big"}, lambda row: row.model == "big"),
        ({"since": day, "until": day}, lambda row: row.day == day),
    ):
        found = report_usage(connection, UsageQuery(group=("day", "user", "model"), **query))
        assert found == list(filter(keep, everything))


def test_tools_are_reported_with_quantiles(connection: Connection) -> None:
    rows = {(row.agent, row.tool): row for row in report_tools(connection, ToolsQuery())}
    calls = Counter((event.agent, event.name) for _, event in decoded(ToolStarted))
    failures = Counter((event.agent, event.name) for _, event in decoded(ToolFailed))
    assert {key: row.calls for key, row in rows.items()} == calls
    assert {key: row.failures for key, row in rows.items() if row.failures} == failures
    for row in rows.values():
        assert row.p50_ms is not None
        assert row.p95_ms is not None
        assert 0 < row.p50_ms <= row.p95_ms
    assert report_tools(connection, ToolsQuery(tool="add", until="2000-01-01")) == []
    by_day = report_tools(connection, ToolsQuery(group=("day",)))
    assert sum(row.calls for row in by_day) == sum(calls.values())
    assert sum(row.failures for row in by_day) == sum(failures.values())
    assert all(row.day and row.tool is None and row.p95_ms is not None for row in by_day)
    assert len({row.day for row in by_day}) == len(by_day)


def test_sessions_come_latest_first_page_by_page(connection: Connection) -> None:
    found, after = [], None
    while True:
        page = list_sessions(connection, "ann", after, 1)
        found += page.sessions
        after = page.next
        if after is None:
            break
    assert {session.session_id for session in found} == {"s-1", "s-2"}
    assert [session.last_at for session in found] == sorted((s.last_at for s in found), reverse=True)
    assert list_sessions(connection, "another", None, 10).sessions == []


def test_an_unanswerable_query_is_refused(connection: Connection) -> None:
    with pytest.raises(InvalidQuery, match="sort 'size' must be one of created, failed, cost"):
        report_runs(connection, RunsQuery(sort="size"))
    with pytest.raises(InvalidQuery, match="group must have some of day, user, agent, model"):
        report_usage(connection, UsageQuery(group=("week",)))
    with pytest.raises(InvalidCursor, match="is not the `next`"):
        report_runs(connection, RunsQuery(sort="cost", after="x"))


def test_a_projection_that_is_not_built_is_named(tmp_path: Path) -> None:
    with (
        empty_database("sqlite", tmp_path) as url,
        closing(open_dialect(make_url(url), statement_timeout=False)) as dialect,
        Database(dialect).connect() as connection,
        pytest.raises(ProjectionNotBuilt, match="'usage' is not built yet"),
    ):
        report_usage(connection, UsageQuery())


def test_a_quantile_is_linear_within_its_bucket() -> None:
    nothing = [0] * 15
    assert quantile(nothing, 0.5) is None
    assert quantile([10, *nothing[1:]], 0.5) == 2  # half of 0 to 5 ms, rounded to even
    assert quantile([0, 4, *nothing[2:]], 0.5) == 8
    assert quantile([*nothing[:-1], 3], 0.95) == 300_000


def test_a_report_with_too_many_rows_is_refused_and_not_cut_off(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = UsageQuery(group=("day", "user", "agent", "model"))
    most = min(len(report_tools(connection, ToolsQuery())), len(report_usage(connection, everything))) - 1
    monkeypatch.setattr(conditions, "MAX_ROWS", most)
    with pytest.raises(InvalidQuery, match="more than"):
        report_tools(connection, ToolsQuery())
    with pytest.raises(InvalidQuery, match="more than"):
        report_usage(connection, everything)
