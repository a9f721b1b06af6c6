"""Empty databases, made and dropped by the benchmark that uses them."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, make_url

from runstore.database.opening import open_database

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}


@contextmanager
def empty_database(server_url: str | None) -> Iterator[str]:
    """The URL of a database with our schema, on a server or in a file."""
    if server_url is None:
        with tempfile.TemporaryDirectory(dir=os.environ.get("RUNSTORE_BENCH_DIR")) as folder:
            yield _migrated(f"sqlite:///{Path(folder) / 'bench.db'}")
        return
    name = f"runstore_bench_{secrets.token_hex(6)}"
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield _migrated(make_url(server_url).set(database=name).render_as_string(hide_password=False))
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")
        engine.dispose()


def name_of(server_url: str | None) -> str:
    """How people call the database."""
    if server_url is None:
        return NAMES["sqlite"]
    engine = create_engine(server_url)
    with engine.connect():
        mariadb = getattr(engine.dialect, "is_mariadb", False)
        return NAMES["mariadb" if mariadb else engine.dialect.name]


def _migrated(url: str) -> str:
    open_database(url).dialect.close()
    return url
