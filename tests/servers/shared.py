"""The servers that all tests share, and never stop, flush or configure.

Without one, a test that needs it is skipped and says so; under CI=true it fails.
"""

import os
from functools import cache

import redis
from sqlalchemy import URL, NullPool, create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from tests.tools import lacking

CONNECT_S = 5  # for an answer from a server on this machine
SHARED = {
    "postgresql": ("RUNSTORE_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "mysql": ("RUNSTORE_TEST_MYSQL_URL", "mysql+pymysql://root@127.0.0.1:3306/mysql"),
    "redis": ("RUNSTORE_TEST_REDIS_URL", "redis://127.0.0.1:6379"),
}


def shared_database(kind: str) -> URL:
    """Where the shared server of a kind is; it has answered in this process."""
    url = make_url(_configured(kind))
    if failure := _database_failure(url):
        variable = SHARED[kind][0]
        lacking(f"no server of tests at {url}, which {variable} may change: {failure}")
    return url


def shared_redis() -> str:
    """Where the shared Redis is. Use keys with a prefix of your own."""
    url = _configured("redis")
    if failure := _redis_failure(url):
        lacking(f"no server of tests at {url}, which {SHARED['redis'][0]} may change: {failure}")
    return url


def _configured(kind: str) -> str:
    variable, default = SHARED[kind]
    return os.environ.get(variable) or default


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
