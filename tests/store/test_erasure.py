"""An erased person is gone from every table of every kind of database; only promised data are left."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, insert, inspect, make_url, select, text

from runstore.core.errors import ConfigError, RunActive, RunNotFound
from runstore.core.events import (
    Cancelled,
    CancelRequested,
    Deleted,
    Message,
    Posted,
    Queued,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.ids import new_run_id
from runstore.core.ports import Reservation
from runstore.core.run import Actor
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.database.tables import api_keys, events, hierarchies, runs
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.maintenance.projections import Projections
from runstore.projections.registry import shipped
from runstore.store.erasure import Erased, Erasure, ToErase
from runstore.store.keys import create_key, list_keys
from runstore.store.reports.runs import RunsQuery, report_runs
from runstore.store.reports.search import SearchQuery, search
from runstore.store.reports.sessions import list_sessions
from runstore.store.reports.usage import UsageQuery, report_usage
from tests.kit.database import run_list
from tests.kit.events import started, token
from tests.kit.purging import act_once_found, purge_run
from tests.kit.rebuilding import verify_runs
from tests.kit.slow import mostly_slow, shared_out
from tests.servers.databases import DATABASES, empty_database

NAME = "ann-personal"
SECRETS = ("zebrafish", "quokkatown", "narwhalson", "axolotlton", "pangolinia", "wombatwick", "okapiland")
ADMIN = Actor("root", "0123456789ab")
USAGE = Usage(agent="demo", model="m", input_tokens=3, output_tokens=2)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture(params=mostly_slow(DATABASES, "sqlite"))
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with empty_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog], feed: MemoryFeed) -> SqlEventLog:
    return open_shared(feed)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The access that any other program has."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def erasure(opened: Database) -> Erasure:
    return Erasure(opened, shipped(), [run_list()])


async def write_run(log: SqlEventLog, user: str = NAME, *, session: str | None = "zebrafish-1") -> str:
    """A run with a secret in each place where text may stand."""
    run_id = new_run_id()
    queued = Queued(
        agent="demo", user_id=user, session_id=session, input="my name is quokkatown",
        metadata={"note": "narwhalson"},
    )  # fmt: skip
    said = {"role": "assistant", "content": [{"text": "hello narwhalson"}]}
    key = Reservation(user, None, f"zebrafish-{run_id}", b"\0" * 32)
    await log.append(run_id, [queued], expected_seq=0, reservation=key)
    await log.append(
        run_id,
        [
            started(), token("axolotlton "),
            ToolStarted(agent="demo", tool_use_id="t", name="find", input={"who": "axolotlton"}),
            ToolFinished(agent="demo", tool_use_id="t", name="find", output=[{"text": "pangolinia"}]),
            USAGE, Message(agent="demo", message=said),
        ],
    )  # fmt: skip
    await log.append(run_id, [Posted("custom.note", {"text": "wombatwick"}, by=user)])
    await log.append(run_id, [CancelRequested(by=user, reason="okapiland")])
    await log.append(run_id, [Cancelled(reason="okapiland")])
    return run_id


def fill_projections(opened: Database) -> None:
    Projections(opened, shipped()).run()


def erase(erasure: Erasure, asked: ToErase) -> Erased:
    erased = erasure.purge(asked, by=ADMIN, reason="request 4711")
    assert erasure.settle() == []
    return erased


def everything(engine: Engine) -> str:
    """All rows of all tables, as one text."""
    found: list[Any] = []
    with engine.connect() as connection:
        names = inspect(engine).get_table_names()
        assert {"events", "runs", "text_a", "sessions_a", "usage_runs_a", "api_keys"} <= {*names}
        for name in names:
            found += connection.execute(text(f"SELECT * FROM {name}")).all()
    return "\n".join(map(shown, (value for row in found for value in row)))


def shown(value: Any) -> str:
    return bytes(value).decode(errors="replace") if isinstance(value, bytes | memoryview) else str(value)


def assert_gone(engine: Engine, *secrets: str) -> None:
    stored = everything(engine).lower()
    assert [secret for secret in secrets if secret in stored] == []


async def test_a_pseudonym_leaves_nothing_of_a_person_in_any_table(
    log: SqlEventLog, opened: Database, engine: Engine, erasure: Erasure
) -> None:
    deleted = await write_run(log)
    await log.append(deleted, [Deleted(by=NAME)])
    purged = await write_run(log)
    purge_run(engine.url.render_as_string(hide_password=False), purged)
    await write_run(log)
    with opened.writing() as connection:
        create_key(connection, NAME, role="user", name="okapiland phone", now=1, expires_at=None)
        create_key(connection, "root", role="admin", name="office", now=1, expires_at=None)
        connection.execute(
            insert(hierarchies).values(
                hierarchy_id=new_run_id(), user_id=NAME, name="zebrafish", created_at=1, definition=b"{}"
            )
        )
    fill_projections(opened)
    assert all(secret in everything(engine) for secret in (NAME, *SECRETS))
    erased = erase(erasure, ToErase(NAME, pseudonym=True))
    assert (erased.runs, erased.keys, erased.hierarchies) == (3, 1, 1)
    assert_gone(engine, NAME, *SECRETS)
    with opened.connect() as connection:
        assert {key.user_id: (key.name, key.state(2)) for key in list_keys(connection)}.items() >= {
            ("root", ("office", "active"))
        }
        assert connection.execute(select(api_keys.c.revoked_at).where(api_keys.c.name == "")).scalar()


async def test_what_happened_stays_and_no_text(
    log: SqlEventLog, opened: Database, engine: Engine, erasure: Erasure
) -> None:
    run_ids = [await write_run(log), await write_run(log, session=None)]
    other = await write_run(log, "bob", session="s")
    fill_projections(opened)
    with opened.connect() as connection:
        before = report_runs(connection, RunsQuery(user_id=NAME))
        used = report_usage(connection, UsageQuery(group=("day",)))
    erase(erasure, ToErase(NAME))
    with opened.connect() as connection:
        found = report_runs(connection, RunsQuery(user_id=NAME)).runs
        assert report_usage(connection, UsageQuery(group=("day",))) == used
        [session] = list_sessions(connection, NAME, None, 10).sessions
        [hit] = {hit.run_id for hit in search(connection, SearchQuery(text="quokkatown")).hits}
    assert {run.run_id for run in found} == {*run_ids}
    assert [(run.status, run.tokens, run.created_at, run.stopped_by) for run in found] == [
        (run.status, run.tokens, run.created_at, NAME) for run in before.runs
    ]
    assert all(run.purged for run in found)
    assert (session.title, session.runs, session.stopped) == (None, 1, 1)
    assert hit == other
    dialect = open_dialect(make_url(engine.url.render_as_string(hide_password=False)))
    assert verify_runs(dialect).equal
    dialect.close()
    for name in ("usage", "sessions", "tools", "text"):
        assert Projections(opened, shipped()).verify(name).equal


async def test_a_pseudonym_is_the_same_in_each_erasure(
    log: SqlEventLog, opened: Database, engine: Engine, erasure: Erasure
) -> None:
    asked = ToErase(NAME, pseudonym=True)
    fill_projections(opened)
    for count in (1, 2):
        await write_run(log)
        erase(erasure, asked)
        with opened.connect() as connection:
            listed = connection.execute(select(runs.c.user_id, runs.c.session_id)).all()
            [(user, session)] = {tuple(row) for row in listed}
            [row] = list_sessions(connection, user, None, 10).sessions
        assert len(listed) == row.runs == count
        assert user.startswith("erased-")
        assert session.startswith("erased-")
        assert user != session
    assert_gone(engine, NAME, *SECRETS)
    assert erase(erasure, asked) == Erased(0, 0, 0, 0)


async def test_who_asked_and_why_is_an_event(log: SqlEventLog, opened: Database, erasure: Erasure) -> None:
    run_id = await write_run(log)
    erase(erasure, ToErase(NAME, run_id))
    [event] = [each for each in await log.read_all() if each.type == "audit.erased"]
    said = str(event.data)
    for part in ("root", "0123456789ab", "request 4711", run_id, '"runs":1', '"events":10'):
        assert part in said


async def test_one_run_is_erased_and_the_others_stay(
    log: SqlEventLog, engine: Engine, opened: Database, erasure: Erasure
) -> None:
    kept = await write_run(log, session=None)
    run_id = await write_run(log)
    fill_projections(opened)
    assert erase(erasure, ToErase(NAME, run_id)).runs == 1
    events = await log.read(kept)
    assert len(events) == 10
    with pytest.raises(RunNotFound):
        erasure.survey(ToErase("bob", kept))


async def test_a_run_that_has_not_ended_refuses_and_nothing_changes(
    log: SqlEventLog, engine: Engine, erasure: Erasure
) -> None:
    await write_run(log)
    open_run = new_run_id()
    await log.append(open_run, [Queued(agent="demo", user_id=NAME, input="hi")])
    before = await log.read_all()
    for asked in (ToErase(NAME), ToErase(NAME, open_run)):
        with pytest.raises(RunActive, match=open_run):
            erasure.survey(asked)
        with pytest.raises(RunActive, match=open_run):
            erasure.purge(asked, by=ADMIN, reason="why")
    assert await log.read_all() == before


async def test_a_run_that_changes_during_the_erasure_is_erased_too(
    log: SqlEventLog, opened: Database, erasure: Erasure, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await write_run(log)
    loop = asyncio.get_running_loop()

    def delete() -> None:
        deletion = log.append(run_id, [Deleted(by=NAME)])
        asyncio.run_coroutine_threadsafe(deletion, loop).result()

    act_once_found(monkeypatch, delete)
    done = await asyncio.to_thread(erasure.purge, ToErase(NAME), by=ADMIN, reason="asked")
    assert done.runs == 1
    with opened.connect() as connection:
        left = connection.execute(select(events.c.type).where(events.c.run_id == run_id)).scalars().all()
    assert left == ["run.purged"]


async def test_a_run_that_begins_during_the_erasure_is_named(
    log: SqlEventLog, erasure: Erasure, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_run(log)
    loop, began = asyncio.get_running_loop(), new_run_id()

    def start() -> None:
        started = log.append(began, [Queued(agent="demo", user_id=NAME, input="hi")], expected_seq=0)
        asyncio.run_coroutine_threadsafe(started, loop).result()

    act_once_found(monkeypatch, start)
    erased = await asyncio.to_thread(erasure.purge, ToErase(NAME), by=ADMIN, reason="asked")
    assert erased.runs == 1
    assert erased.remains == f"runs of {NAME!r} have not ended: stop them, then erase: {began}"


@pytest.mark.slow
@pytest.mark.parametrize(("pseudonym", "database_url"), shared_out([False, True]), indirect=["database_url"])
async def test_two_erasures_at_once_share_the_work(
    log: SqlEventLog,
    database_url: str,
    opened: Database,
    engine: Engine,
    erasure: Erasure,
    *,
    pseudonym: bool,
) -> None:
    for _ in range(25):
        await write_run(log)
    await write_run(log, "bob", session="s")
    fill_projections(opened)
    asked = ToErase(NAME, pseudonym=pseudonym)
    with closing(open_dialect(make_url(database_url), statement_timeout=False)) as dialect:
        other = Erasure(Database(dialect), shipped(), [run_list()])
        both = [asyncio.to_thread(erase, each, asked) for each in (erasure, other)]
        erased = await asyncio.gather(*both)
    assert sum(each.runs for each in erased) == 25
    assert sum(each.events for each in erased) == 250
    with opened.connect() as connection:
        [session] = list_sessions(connection, "bob", None, 10).sessions
        assert report_usage(connection, UsageQuery(group=("day",)))[0].runs == 26
    assert session.runs == 1
    for name in ("runs", "usage", "sessions", "tools", "text"):
        assert Projections(opened, shipped()).verify(name).equal
    if pseudonym:
        stored = everything(engine)
        assert NAME not in stored


async def test_a_survey_counts_as_many_as_are_erased_then(log: SqlEventLog, erasure: Erasure) -> None:
    await write_run(log)
    found = erasure.survey(ToErase(NAME))
    assert (found.runs, found.events) == (1, 10)
    erased = erasure.purge(ToErase(NAME), by=ADMIN, reason="why")
    assert (erased.runs, erased.events) == (1, 10)


async def test_a_run_list_with_a_hole_is_refused(
    log: SqlEventLog, opened: Database, erasure: Erasure
) -> None:
    await write_run(log)
    Projections(opened, shipped()).drop("runs")
    with pytest.raises(ConfigError, match="projections rebuild runs"):
        erasure.survey(ToErase(NAME))


async def test_a_projection_that_cannot_follow_is_named(
    log: SqlEventLog, opened: Database, erasure: Erasure
) -> None:
    run_id = await write_run(log)
    fill_projections(opened)
    Projections(opened, shipped()).pause("text")
    erasure.purge(ToErase(NAME, run_id), by=ADMIN, reason="why")
    [left] = erasure.settle()
    assert "runstore projections resume text" in left
    Projections(opened, shipped()).resume("text")
    assert erasure.settle() == []


@on_sqlite
async def test_not_even_the_bytes_of_the_files_have_an_erased_person(
    log: SqlEventLog, database_url: str, opened: Database, erasure: Erasure
) -> None:
    for _ in range(10):
        await write_run(log)
        await write_run(log, "bob", session="s")
    path = Path(make_url(database_url).database or "")
    fill_projections(opened)
    erase(erasure, ToErase("bob", pseudonym=True))
    erase(erasure, ToErase(NAME, pseudonym=True))
    files = [path, path.with_name(f"{path.name}-wal")]
    stored = b"".join(file.read_bytes() for file in files if file.exists()).lower()
    assert [secret for secret in (NAME, "bob", *SECRETS) if secret.encode() in stored] == []
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
