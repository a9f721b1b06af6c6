"""Leases on one machine: each worker holds a lock on a file of its own beside the database.

The operating system releases a dead process's locks, so a free lock means a crash, at once. A worker that
leaves on purpose removes its file: its runs are handed over, and do not count as crashed.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from uuid import uuid4

from runstore.forks import forget, keep_from_forks


class FileLeases:
    """The port `Leases` over `flock`."""

    def __init__(self, directory: Path) -> None:
        self.worker_id = uuid4().hex
        self._directory = directory
        self._file = -1

    @property
    def held(self) -> bool:
        """See `Leases.held`."""
        return self._file >= 0

    def fileno(self) -> int:
        """See `Held.fileno`."""
        return self._file

    async def hold(self) -> None:
        """See `Leases.hold`."""
        if self.held:
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        # Other workers would take an unlocked file under its final name for a dead worker's.
        unlocked = self._directory / f"{self.worker_id}.new"
        self._file = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)
        keep_from_forks(self)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unlocked.rename(self._path(self.worker_id))

    async def dead(self, worker_ids: set[str]) -> dict[str, bool]:
        """See `Leases.dead`."""
        found = {worker_id: self._crashed(worker_id) for worker_id in worker_ids - {self.worker_id}}
        return {worker_id: crashed for worker_id, crashed in found.items() if crashed is not None}

    async def forget(self, still_named: set[str]) -> None:
        """Remove the files of dead workers that no open run names any more."""
        for path in self._directory.glob("*.lock"):
            if path.stem not in still_named | {self.worker_id} and self._crashed(path.stem):
                path.unlink(missing_ok=True)

    async def release(self) -> None:
        """See `Leases.release`."""
        if self.held:
            self._path(self.worker_id).unlink(missing_ok=True)
            forget(self)
            os.close(self._file)
            self._file = -1

    def _path(self, worker_id: str) -> Path:
        return self._directory / f"{worker_id}.lock"

    def _crashed(self, worker_id: str) -> bool | None:
        """True: crashed; False: left on purpose; None: alive."""
        try:
            file = os.open(self._path(worker_id), os.O_RDWR)
        except FileNotFoundError:
            return False
        with contextlib.closing(os.fdopen(file)) as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        return True
