"""The servers that all tests share, and never stop, flush or configure.

Without one, a test that needs it is skipped and says so; under CI=true it fails.
"""

import os
from functools import cache

import redis
from sqlalchemy import URL, NullPool, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from tests.kit.tools import lacking

CONNECT_S = 5  # for an answer from a server on this machine
PLAIN = "?ssl_disabled=true"  # or PyMySQL reads all of the machine's certificates, for each connection
POSTGRES = ("RUNSTORE_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres")
SHARED = {
    "postgresql": POSTGRES,
    "partitioned": POSTGRES,
    "mysql": ("RUNSTORE_TEST_MYSQL_URL", f"mysql+pymysql://root@127.0.0.1:3306/mysql{PLAIN}"),
    "redis": ("RUNSTORE_TEST_REDIS_URL", "redis://127.0.0.1:6379"),
}


def shared_database(kind: str) -> URL:
    """Where the shared server of a kind is; it has answered in this process."""
    return make_url(url_of(kind))


def shared_redis() -> str:
    """Where the shared Redis is. Use keys with a prefix of your own."""
    return url_of("redis")


def configured(kind: str) -> str:
    """The URL of a shared server, whether it answers or not."""
    variable, default = SHARED[kind]
    return os.environ.get(variable) or default


def failure(kind: str) -> str | None:
    """Why the shared server of a kind cannot be used; None when it can."""
    url = configured(kind)
    return _redis_failure(url) if kind == "redis" else _database_failure(make_url(url))


def url_of(kind: str) -> str:
    """The URL of a shared server that answers; otherwise the test is skipped."""
    if reason := failure(kind):
        url = make_url(configured(kind))  # which hides the password
        lacking(f"no server for tests at {url!r}, or where {SHARED[kind][0]} says: {reason}")
    return configured(kind)


@cache
def _database_failure(url: URL) -> str | None:
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_S})
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        return _first_line(error)
    return None


@cache
def _redis_failure(url: str) -> str | None:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=CONNECT_S, socket_timeout=CONNECT_S) as client:
            client.ping()
    except redis.RedisError as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
