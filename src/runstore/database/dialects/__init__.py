"""The differences between databases, with one file for each. No other room asks which database it is."""

from importlib.util import find_spec

from sqlalchemy.engine import URL

from runstore.database.dialects.base import (
    CHANGERS,
    CONNECT_S,
    CONNECTIONS,
    LISTERS,
    PAGERS,
    READERS,
    REPLICA_CONNECT_S,
    Dialect,
    Replicated,
    Row,
    wrong_url,
)
from runstore.database.dialects.sqlite import SqliteDialect

FORMS = "sqlite:///FILE, postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or mysql+pymysql://USER:PASSWORD@HOST/DATABASE"
__all__ = [
    "CHANGERS", "CONNECTIONS", "CONNECT_S", "FORMS", "LISTERS", "PAGERS", "READERS", "REPLICA_CONNECT_S",
    "Dialect", "Replicated", "Row", "SqliteDialect", "open_dialect",
]  # fmt: skip


def open_dialect(url: URL, *, statement_timeout: bool = True, connect_s: int = CONNECT_S) -> Dialect:
    """The dialect of a URL.

    Args:
        statement_timeout: apply the statement timeout (serving processes only).
        connect_s: seconds for PostgreSQL to accept a connection.

    Raises:
        ConfigError: the database is unknown, or its driver is not installed.
    """
    backend, driver = url.get_backend_name(), url.drivername.partition("+")[2]
    if backend == "sqlite" and driver in ("", "pysqlite"):
        return SqliteDialect(url)
    if backend == "postgresql" and driver in ("", "psycopg"):
        _require("psycopg", "postgres", url)
        from runstore.database.dialects.postgresql import PostgresDialect

        complete = _complete(url, "postgresql+psycopg")
        return PostgresDialect(complete, statement_timeout=statement_timeout, connect_s=connect_s)
    if backend in ("mysql", "mariadb") and driver in ("", "pymysql"):
        _require("pymysql", "mysql", url)
        from runstore.database.dialects.mysql import MysqlDialect

        return MysqlDialect(_complete(url, f"{backend}+pymysql"), statement_timeout=statement_timeout)
    raise wrong_url(url, f"unknown database {url.drivername!r}; use {FORMS}")


def _require(module: str, extra: str, url: URL) -> None:
    if find_spec(module) is None:
        raise wrong_url(url, f"its driver is not installed: pip install 'runstore[{extra}]'")


def _complete(url: URL, drivername: str) -> URL:
    """The URL with our driver if it names none, instead of SQLAlchemy's default."""
    if not url.database:
        raise wrong_url(url, f"it names no database; use {drivername}://USER:PASSWORD@HOST/DATABASE")
    if "@" in (url.host or ""):
        raise wrong_url(url, "a user or password with '@', ':' or '/' is written with %40, %3A or %2F")
    return url.set(drivername=drivername)
