"""Settings of an operator for a server, a role or a database do not change the log's promises."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, make_url

from runstore.database.dialects import open_dialect
from runstore.feed.memory import MemoryFeed
from tests.kit.database import open_log_at
from tests.kit.events import note, start_run, texts
from tests.servers.databases import empty_database

SETTINGS = {"default_transaction_isolation": "serializable", "synchronous_commit": "off"}
APPENDS = 40


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    with empty_database("postgresql", tmp_path) as url:
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name, value in SETTINGS.items():
                connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET {name} = '{value}'")
        yield url


async def test_writers_side_by_side_lose_nothing_with_any_default_isolation(database: str) -> None:
    logs = [open_log_at(database, MemoryFeed()) for _ in range(3)]
    run_id = await start_run(logs[0])

    async def write(number: int) -> None:
        for i in range(number, APPENDS, len(logs)):
            await logs[number].append(run_id, [note(f"{i}")])

    await asyncio.gather(*map(write, range(len(logs))))
    assert sorted(await texts(logs[0], run_id), key=int) == [f"{i}" for i in range(APPENDS)]
    for log in logs:
        await log.close()


@pytest.mark.parametrize(
    ("configured", "used"), [("off", "on"), ("local", "local"), ("remote_write", "remote_write")]
)
def test_a_commit_is_synced_for_any_setting_of_the_role_or_database(
    tmp_path: Path, configured: str, used: str
) -> None:
    """Only `off` acknowledges commits that are not on disk; an operator may choose among the other values."""
    with empty_database("postgresql", tmp_path) as url:
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            name = engine.url.database
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET synchronous_commit = '{configured}'")
            assert connection.exec_driver_sql("SELECT current_database()").scalar_one() == name
        dialect = open_dialect(make_url(url))
        with dialect.engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == used
        dialect.close()


def test_a_touch_is_a_write(tmp_path: Path) -> None:
    """MariaDB leaves out an update that changes nothing; then a disk that is full would not be noticed."""
    with empty_database("mysql", tmp_path) as url:
        dialect = open_dialect(make_url(url))
        with dialect.engine.connect() as connection:
            dialect.touch(connection)
            updates = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_update'").one()[1]
        dialect.close()
    assert int(updates) > 0
