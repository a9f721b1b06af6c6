"""A database for each test: with the schema, empty, its own, and gone afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, create_engine, inspect, make_url, text

from runstore.feed.memory import MemoryFeed
from tests.kit.database import open_log_at
from tests.kit.events import start_run
from tests.kit.purging import purge, write_old
from tests.servers.databases import DATABASES, MAKERS, empty_database, kept_database
from tests.servers.names import NAME, left_over, new_name
from tests.servers.shared import shared_database

pytestmark = pytest.mark.slow  # they hold what tests are made of, not the product

SERVERS = tuple(MAKERS)


def connect(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


def names_on(kind: str) -> list[str]:
    with connect(shared_database(kind).render_as_string(hide_password=False)).connect() as connection:
        statement = "SHOW DATABASES" if kind == "mysql" else "SELECT datname FROM pg_database"
        return list(connection.execute(text(statement)).scalars())


@pytest.mark.parametrize("kind", SERVERS)
def test_a_copied_database_has_what_the_migrated_one_has(kind: str, tmp_path: Path) -> None:
    with empty_database("sqlite", tmp_path) as sqlite, empty_database(kind, tmp_path) as url:
        expected = inspect(connect(sqlite))
        found = inspect(connect(url))
        tables = set(expected.get_table_names())
        assert tables <= set(found.get_table_names())
        for table in tables:
            assert {c["name"] for c in found.get_columns(table)} == {
                c["name"] for c in expected.get_columns(table)
            }
        with connect(url).connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM events")).scalar() == 0
            assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1


@pytest.mark.parametrize("kind", DATABASES)
def test_events_of_one_database_are_in_no_other(kind: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with empty_database(kind, tmp_path) as one, empty_database(kind, tmp_path / "other") as other:
        assert one != other
        with connect(one).begin() as connection:
            connection.execute(text("INSERT INTO server_secrets VALUES ('mine', '1')"))
        with connect(other).connect() as connection:
            assert (
                connection.execute(text("SELECT count(*) FROM server_secrets WHERE name = 'mine'")).scalar()
                == 0
            )


def contents(url: str) -> dict[str, list[tuple[object, ...]]]:
    with connect(url).connect() as connection:
        tables = inspect(connection).get_table_names()
        return {t: sorted(map(tuple, connection.execute(text(f"SELECT * FROM {t}")))) for t in tables}


async def write_into(url: str) -> int:
    """Leave something in most tables; returns the position of the first event."""
    log = open_log_at(url, MemoryFeed())
    await write_old(log)
    await start_run(log)
    first = (await log.read_all(limit=1))[0].position
    await log.close()
    purge(url)
    return first


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_kept_database_is_as_new_each_time_it_is_lent(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        new = contents(url)
    with kept_database(kind, tmp_path) as first:
        assert await write_into(first) == 1
        assert contents(first) != new
    with kept_database(kind, tmp_path) as second:
        assert second == first
        assert contents(second) == new
        assert await write_into(second) == 1


@pytest.mark.parametrize("kind", SERVERS)
def test_a_database_is_dropped_although_a_transaction_is_open_in_it(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        connection = connect(url).connect()
        connection.execute(text("INSERT INTO server_secrets VALUES ('mine', '1')"))
    connection.invalidate()
    assert make_url(url).database not in names_on(kind)


@pytest.mark.parametrize("kind", SERVERS)
def test_databases_of_a_killed_test_run_are_dropped_by_the_next_and_those_of_a_living_one_are_not(
    kind: str, tmp_path: Path
) -> None:
    """The next one is a process of its own; this process is the living one."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = NAME.pattern.replace(r"(\d+)_\w+", f"{dead.pid}_1")
    databases = MAKERS[kind](shared_database(kind))
    with empty_database(kind, tmp_path) as living:
        with databases.engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {gone}")
        databases.close()
        done = subprocess.run(
            [sys.executable, "-c", "from tests.servers.test_databases import *; sweep(*sys.argv[1:])", kind],
            capture_output=True, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert gone not in names_on(kind)
        assert make_url(living).database in names_on(kind)


def sweep(kind: str) -> None:
    """The steps of a server's first use."""
    databases = MAKERS[kind](shared_database(kind))
    databases.drop(new_name())
    databases.close()


def test_names_of_others_are_never_left_over() -> None:
    assert left_over(["postgres", "runstore", "runstore_test", "runstore_test_00000000_1_1"]) == []
    assert left_over([NAME.pattern.replace(r"(\d+)_\w+", "1_1")]) == [], "process 1 always lives"
