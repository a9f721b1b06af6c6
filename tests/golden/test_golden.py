"""This release reads logs of old releases: the same bytes, the same states."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runstore import __version__
from runstore.core.codec import ENCODER_VERSION, decode
from runstore.core.errors import RunClosed
from runstore.core.events import EVENT_CLASSES, Unknown
from runstore.core.ids import new_run_id
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.projections.runs import find_run
from runstore.runtime.attempts.history import read_start
from runstore.runtime.memory.session_memory import read_memory
from tests.golden import FOLDER, RELEASES, read_states, read_streams, run_ids
from tests.kit.database import migrate, open_database, open_sqlite_log, run_list
from tests.kit.events import COMPLETED, note
from tests.kit.rebuilding import rebuild_runs

# Types that came after this release; the log of the next one has them.
UNRELEASED = {
    "llm.context_reduced", "llm.discarded", "llm.input_replaced", "llm.redacted", "llm.retrying",
    "run.purged", "audit.read", "audit.erased", "audit.projection", "llm.request",
    "llm.context", "input.requested", "input.given", "input.added",
}  # fmt: skip


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Path:
    return FOLDER / request.param


@pytest.fixture
def old_database(release: Path, tmp_path: Path) -> Path:
    """The release's file, as a server of this release starts on it."""
    path = tmp_path / "runstore.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((release / "log.sql").read_text(encoding="utf-8"))
    migrate(path)
    return path


@pytest.fixture
async def log(old_database: Path, feed: MemoryFeed) -> AsyncIterator[SqlEventLog]:
    log = open_sqlite_log(old_database, feed)
    yield log
    await log.close()


def states_of(release: Path) -> list[dict[str, Any]]:
    states: list[dict[str, Any]] = json.loads((release / "runs.json").read_bytes())
    return states


def agree(states: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """A later release may add fields of a run, but not change them."""
    return len(states) == len(expected) and all(
        old.items() <= new.items() for new, old in zip(states, expected, strict=True)
    )


def test_this_release_has_its_log_here() -> None:
    assert __version__ in RELEASES


async def test_every_stream_is_replayed_byte_for_byte(
    log: SqlEventLog, feed: MemoryFeed, release: Path
) -> None:
    assert ENCODER_VERSION == 1, "the form of the bytes has changed: compare with frames of that version"
    assert await read_streams(log, feed) == (release / "frames.sse").read_bytes()


async def test_every_run_folds_to_the_state_that_it_had(log: SqlEventLog, release: Path) -> None:
    assert agree(await read_states(log), states_of(release))


async def test_the_run_list_that_it_kept_is_understood(log: SqlEventLog, release: Path) -> None:
    kept = [await log.database.query(find_run, run_id) for run_id in await run_ids(log)]
    assert agree([msgspec.to_builtins(run) for run in kept], states_of(release))


async def test_the_run_list_is_rebuilt_from_its_log(
    log: SqlEventLog, old_database: Path, release: Path
) -> None:
    dialect = open_database(old_database)
    with dialect.engine.connect() as connection:
        run_list().drop(connection)
    rebuild_runs(dialect)
    dialect.engine.dispose()
    rebuilt = [await log.database.query(find_run, run_id) for run_id in await run_ids(log)]
    assert agree([msgspec.to_builtins(run) for run in rebuilt], states_of(release))


async def test_every_event_of_it_is_still_understood(log: SqlEventLog) -> None:
    for event in await log.read_all(limit=10_000):
        assert not isinstance(decode(event.type, event.version, event.data), Unknown)


async def test_its_open_runs_go_on_and_its_closed_ones_stay_closed(log: SqlEventLog) -> None:
    open_runs = [run.run_id for run in await log.open_runs()]
    assert len(open_runs) == 2
    for run_id in await run_ids(log):
        if run_id in open_runs:
            head = await log.head(run_id)
            assert head is not None
            assert await log.append(run_id, [note()]) == head.seq + 1
            await log.append(run_id, [COMPLETED])
        else:
            with pytest.raises(RunClosed):
                await log.append(run_id, [note()])


async def test_its_sessions_are_remembered(log: SqlEventLog) -> None:
    told = [await read_start(log, run_id) for run_id in await run_ids(log)]
    for queued in (each for each in told if each.session_id):
        run_id = new_run_id()
        await log.append(run_id, [queued], expected_seq=0)
        memory = await read_memory(log, run_id, queued)
        assert [message["role"] for message in memory] == ["user", "assistant"]
        assert memory[0]["content"] == [{"text": queued.input}]


def test_the_log_of_this_release_holds_every_event_type() -> None:
    frames = (FOLDER / __version__ / "frames.sse").read_text(encoding="utf-8")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript((FOLDER / __version__ / "log.sql").read_text(encoding="utf-8"))
        types = {type for (type,) in connection.execute("SELECT DISTINCT type FROM events")}
    assert types == set(EVENT_CLASSES) - UNRELEASED | {"custom.chart", "custom.empty"}
    assert all(f"\nevent: {type}\n" in frames for type in types - {"run.deleted", "run.purged"})
