"""A PostgreSQL of a test's own, as durable as one in production, and small."""

import signal
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.own import OwnServer
from tests.servers.owner import owner, program

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "log_min_messages": "warning",
    "logging_collector": "off",
}


class OwnPostgres(OwnServer):
    """Options are those of postgresql.conf."""

    account = "postgres"
    stop_signal = signal.SIGINT  # "fast": clients are cut off; with SIGTERM it would wait for them

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = SETTINGS | settings

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def cut_off(self) -> None:
        """End the sessions of all clients; replicas go on."""
        self._call(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    def write(self, size: int) -> None:
        """Write a number of bytes to the WAL that change nothing."""
        self._call(f"SELECT pg_logical_emit_message(false, 'test', repeat('x', {size}))")
        self._call("CHECKPOINT")

    def flushed(self) -> int:
        """The position up to which it has flushed its WAL, in bytes."""
        return int(self._call("SELECT pg_current_wal_flush_lsn() - '0/0'"))

    def _call(self, statement: str) -> Any:
        url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(statement)  # type: ignore[arg-type]
            return (found.fetchone() or (None,))[0] if found.description else None

    def _installed(self) -> Path:
        program("postgres")
        return _installed()

    def _command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        return [program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]

    def _answers(self) -> bool:
        try:
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres").close()
        except psycopg.OperationalError:
            return False
        return True


@cache
def _installed() -> Path:
    by = owner(OwnPostgres.account)
    folder = by.kept_folder() / "data"
    by.run(
        program("initdb"), "-D", str(folder), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
        "--wal-segsize=1", "--no-sync", "--no-instructions",
    )  # fmt: skip
    return folder
