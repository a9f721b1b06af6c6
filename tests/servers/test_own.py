"""Servers of a test's own: what the fault tests take for granted about them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pymysql
import pytest
import redis
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.servers.mariadb import OwnMariadb
from tests.servers.own import OwnServer
from tests.servers.postgres import OwnPostgres
from tests.servers.redis import OwnRedis

pytestmark = pytest.mark.slow  # they hold what tests are made of, not the product

DATABASES: dict[str, type[OwnServer]] = {"postgresql": OwnPostgres, "mysql": OwnMariadb}


@pytest.fixture(scope="module")
def own() -> Iterator[Callable[[str], OwnServer]]:
    """`own(kind)` is a running server; the tests of this module share one of each kind."""
    with ExitStack() as stack:
        opened: dict[str, OwnServer] = {}

        def open_one(kind: str) -> OwnServer:
            if kind not in opened:
                opened[kind] = stack.enter_context(DATABASES[kind]())
            return opened[kind]

        yield open_one


def connect(server: OwnServer, timeout_s: int = 30) -> Engine:
    timeout = {"connect_timeout": timeout_s}
    if server.url.startswith("mysql"):
        timeout["read_timeout"] = timeout_s
    return create_engine(server.url, poolclass=NullPool, connect_args=timeout)


def rows(server: OwnServer) -> list[int]:
    with connect(server).connect() as connection:
        return list(connection.execute(text("SELECT n FROM kept ORDER BY n")).scalars())


@pytest.mark.parametrize("kind", DATABASES)
def test_committed_data_survives_a_kill_and_a_stop_on_the_same_port(
    kind: str, own: Callable[[str], OwnServer]
) -> None:
    server = own(kind)
    with connect(server).begin() as connection:
        connection.execute(text("CREATE TABLE kept (n INT PRIMARY KEY)"))
        connection.execute(text("INSERT INTO kept VALUES (1)"))
    for number, end in enumerate((server.kill, server.stop), 2):
        with connect(server).connect() as uncommitted:
            uncommitted.execute(text("INSERT INTO kept VALUES (99)"))
            end()
            with pytest.raises(DBAPIError):
                uncommitted.execute(text("INSERT INTO kept VALUES (100)"))
        with pytest.raises(DBAPIError, match=r"refused"):
            connect(server).connect()
        server.start()
        assert rows(server) == list(range(1, number))
        with connect(server).begin() as connection:
            connection.execute(text(f"INSERT INTO kept VALUES ({number})"))
    assert rows(server) == [1, 2, 3]


@pytest.mark.parametrize("kind", DATABASES)
def test_a_frozen_server_answers_on_no_connection_until_it_goes_on(
    kind: str, own: Callable[[str], OwnServer]
) -> None:
    server = own(kind)
    open_connection = connect(server).connect()
    server.freeze()
    with pytest.raises((DBAPIError, psycopg.OperationalError, pymysql.OperationalError)):
        connect(server, timeout_s=2).connect()
    server.thaw()
    assert open_connection.execute(text("SELECT 1")).scalar() == 1
    open_connection.close()


@pytest.mark.parametrize("kind", DATABASES)
def test_it_syncs_what_it_commits(kind: str, own: Callable[[str], OwnServer]) -> None:
    statement, durable = {
        "postgresql": ("SELECT current_setting('fsync') || current_setting('synchronous_commit')", "onon"),
        "mysql": ("SELECT @@innodb_flush_log_at_trx_commit", 1),
    }[kind]
    with connect(own(kind)).connect() as connection:
        assert connection.execute(text(statement)).scalar() == durable


def test_redis_is_empty_after_a_restart_unless_it_is_configured_to_keep_data() -> None:
    with OwnRedis(maxmemory="3mb", maxmemory_policy="noeviction") as server:
        with server.client() as client:
            client.set("key", "value")
        server.kill()
        server.start()
        with server.client() as client:
            assert client.get("key") is None
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                fill(client)
        server.stop()
        with pytest.raises(redis.ConnectionError):
            server.client().ping()


def fill(client: "redis.Redis") -> None:
    for number in range(10_000):
        client.set(f"key-{number}", "x" * 1_000)
