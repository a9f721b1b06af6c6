"""A streaming replica of a PostgreSQL server of a test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.servers.owner import program
from tests.servers.postgres import OwnPostgres


class OwnReplica(OwnPostgres):
    """Copied from a primary that runs, which it follows from then on."""

    def __init__(self, primary: OwnPostgres) -> None:
        self._primary = primary
        super().__init__()
        self._owner.run(
            program("pg_basebackup"), "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres",
            "-D", str(self.folder / "data"), "-R", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip

    def _installed(self) -> Path | None:  # type: ignore[override]
        program("pg_basebackup")
        return None

    def pause(self) -> None:
        """Replay nothing until `resume`."""
        self._call("SELECT pg_wal_replay_pause()")

    def resume(self) -> None:
        self._call("SELECT pg_wal_replay_resume()")

    def promote(self) -> None:
        """Make it a primary, on a timeline of its own."""
        self._call("SELECT pg_promote()")

    def replayed(self) -> int:
        """The position up to which it has replayed, in bytes."""
        return int(self._call("SELECT pg_last_wal_replay_lsn() - '0/0'"))

    def reads(self) -> bool:
        """Whether a session is open here that last read events."""
        of_others = "pid <> pg_backend_pid() AND query ~ 'FROM events'"
        return bool(self._call(f"SELECT count(*) FROM pg_stat_activity WHERE {of_others}"))


class Pair(NamedTuple):
    primary: OwnPostgres
    replica: OwnReplica


@contextmanager
def replicated() -> Iterator[Pair]:
    """A primary and its replica."""
    with OwnPostgres() as primary, OwnReplica(primary) as replica:
        yield Pair(primary, replica)
