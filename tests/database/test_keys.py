"""Rows are found by keys of two columns: on every database, and by an index."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, insert, select

from runstore.database.keys import is_one_of
from runstore.database.opening import opened_database
from runstore.database.tables import sessions
from tests.servers.databases import DATABASES

ODD = ['a"b', "a'b", "a\\u0041", "ä😀", "1", "null", "[1]", "a\nb", " "]
KEY = (sessions.c.user_id, sessions.c.session_id)


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with opened_database(database_url) as database, database.connect() as connection:
        yield connection


@pytest.mark.parametrize("database_url", DATABASES, indirect=True)
def test_the_rows_of_the_keys_are_found_and_no_others(connection: Connection) -> None:
    wanted = [("ann", name) for name in ODD] + [(name, "main") for name in ODD]
    others = [("ann", "other"), ("bob", ODD[0]), ("main", "ann")]
    run_id = "019e7044-8800-7000-8000-000000000000"
    rows = [{"user_id": user, "session_id": name, "run_id": run_id} for user, name in wanted + others]
    connection.execute(insert(sessions), rows)
    keys = [*wanted, ("no", "one")]
    found = connection.execute(select(*KEY).where(is_one_of(KEY, keys))).all()
    assert sorted(map(tuple, found)) == sorted(wanted)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_looks_each_key_up(connection: Connection) -> None:
    """For a list of keys it would read the whole table."""
    query = select(*KEY).where(is_one_of(KEY, [("ann", "main"), ("bob", "main")]))
    compiled = query.compile(connection, compile_kwargs={"literal_binds": True})
    plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")]
    assert any(step.startswith("SEARCH sessions ") for step in plan)
    assert not any(step.startswith("SCAN sessions") for step in plan)
