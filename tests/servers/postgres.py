"""A PostgreSQL of a test's own, as durable as one in production, and small."""

import signal
from functools import cache
from pathlib import Path

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
