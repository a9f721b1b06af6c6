"""The link itself: a fault test is worth nothing if its fault does not happen, or happens elsewhere."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.kit.link import Link
from tests.servers.databases import KINDS, empty_database
from tests.servers.shared import shared_redis

SHORT_S = 1  # a driver's wait for bytes that will not come


@pytest.fixture(scope="module", params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("link")
    with empty_database(request.param, folder) as url:
        with connect(url) as connection:
            connection.execute(text("CREATE TABLE kept (n INT PRIMARY KEY)"))
            connection.commit()
        yield url


@pytest.fixture
def link(database: str) -> Iterator[Link]:
    with connect(database) as connection:
        connection.execute(text("DELETE FROM kept"))
        connection.commit()
    with Link(database) as link:
        yield link


def connect(url: str, timeout_s: int = 30) -> Connection:
    options: dict[str, Any] = {"connect_timeout": timeout_s}
    if url.startswith("mysql"):
        options |= {"read_timeout": timeout_s}
    return create_engine(url, poolclass=NullPool, connect_args=options).connect()


def insert(connection: Connection, n: int) -> None:
    connection.execute(text(f"INSERT INTO kept VALUES ({n})"))


def rows(database: str) -> list[int]:
    with connect(database) as connection:
        return list(connection.execute(text("SELECT n FROM kept ORDER BY n")).scalars())


def commit_in_a_pipeline(connection: psycopg.Connection[Any]) -> None:
    with connection.pipeline():
        connection.execute("INSERT INTO kept VALUES (%s)", [1])
        connection.commit()


def commit_as_a_statement(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO kept VALUES (%s)", [1])
    connection.execute("COMMIT")


@pytest.mark.parametrize(("side", "kept"), [("before", [1, 3]), ("after", [1, 2, 3])])
def test_a_commit_that_is_cut_before_is_not_there_and_one_that_is_cut_after_is(
    link: Link, database: str, side: Any, kept: list[int]
) -> None:
    with connect(link.url) as connection:
        insert(connection, 1)
        connection.commit()
        insert(connection, 2)
        cut = link.cut_commit(side)
        with pytest.raises(DBAPIError):
            connection.commit()
        cut.wait()
        connection.invalidate()
    with connect(link.url) as connection:  # only the next one is cut
        insert(connection, 3)
        connection.commit()
    assert rows(database) == kept


def test_only_the_commit_of_the_transaction_that_carries_something_is_cut(link: Link, database: str) -> None:
    with connect(link.url) as one, connect(link.url) as other:
        cut = link.cut_commit("before", carrying=b"VALUES (7)")
        insert(one, 7)
        insert(other, 1)
        other.commit()
        insert(other, 2)
        one.rollback()
        insert(one, 3)
        one.commit()
        insert(one, 7)
        other.commit()
        with pytest.raises(DBAPIError):
            one.commit()
        cut.wait()
        one.invalidate()
    assert rows(database) == [1, 2, 3]


def test_a_commit_that_is_held_arrives_when_the_link_is_restored(link: Link, database: str) -> None:
    with connect(link.url) as connection:
        cut = link.cut_commit("before", silent=True)
        insert(connection, 1)
        committing = threading.Thread(target=connection.commit)
        committing.start()
        cut.wait()
        assert rows(database) == []
        link.restore()
        committing.join()
    assert rows(database) == [1]


def test_an_answer_that_is_held_is_of_a_commit_that_has_happened(link: Link, database: str) -> None:
    with connect(link.url) as connection:
        cut = link.cut_commit("after", silent=True)
        insert(connection, 1)
        committing = threading.Thread(target=connection.commit)
        committing.start()
        cut.wait()
        assert rows(database) == [1]
        assert committing.is_alive()
        link.restore()
        committing.join()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("commit", [commit_in_a_pipeline, commit_as_a_statement])
def test_psycopgs_other_ways_to_commit_are_seen_too(
    link: Link, database: str, commit: Callable[[psycopg.Connection[Any]], None]
) -> None:
    connection = psycopg.connect(link.url.replace("+psycopg", ""))
    cut = link.cut_commit("after")
    with pytest.raises(psycopg.OperationalError):
        commit(connection)
    cut.wait()
    connection.close()
    assert rows(database) == [1]


@pytest.mark.parametrize(("direction", "kept"), [("requests", []), ("answers", [1])])
def test_a_held_direction_is_silent_and_passes_everything_when_it_is_restored(
    link: Link, database: str, direction: Any, kept: list[int]
) -> None:
    with connect(link.url) as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("SELECT 1"))
        link.hold(direction)
        inserting = threading.Thread(target=insert, args=(connection, 1))
        inserting.start()
        with pytest.raises(DBAPIError):  # after a second: nothing refuses or resets the connection
            connect(link.url, SHORT_S)
        assert rows(database) == kept
        assert inserting.is_alive()
        link.restore()
        inserting.join()
    assert rows(database) == [1]


def test_open_connections_are_cut_and_new_ones_are_not(link: Link, database: str) -> None:
    with connect(link.url) as connection:
        insert(connection, 1)
        link.cut()
        with pytest.raises(DBAPIError):
            connection.commit()
        connection.invalidate()
    connect(link.url).close()
    assert rows(database) == []


def test_new_connections_are_refused_and_open_ones_go_on(link: Link, database: str) -> None:
    with connect(link.url) as connection:
        link.refuse()
        with pytest.raises(DBAPIError, match="refused"):
            connect(link.url)
        insert(connection, 1)
        connection.commit()
    link.restore()
    connect(link.url).close()
    assert rows(database) == [1]


def test_an_ordinary_end_is_passed_on_with_the_text_before_it(link: Link) -> None:
    """A server's reason to close a connection, in its last words, reaches the client."""
    postgres = link.url.startswith("postgresql")
    url = link.url.rpartition("/")[0] + "/there_is_no_such_database"
    with pytest.raises(DBAPIError, match="does not exist" if postgres else "Unknown database"):
        connect(url)


def test_a_link_to_redis_delays_and_holds() -> None:
    with Link(shared_redis()) as link, redis.Redis.from_url(link.url, socket_timeout=SHORT_S) as client:
        assert client.ping()
        link.hold("answers")
        with pytest.raises(redis.TimeoutError):
            client.ping()
        link.restore()
        link.delay_s = 0.05
        assert client.ping()
        link.refuse()
        link.cut()
        with pytest.raises(redis.ConnectionError):
            client.ping()
