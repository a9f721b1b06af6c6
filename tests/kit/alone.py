"""Lets a test that measures time run while no other does: `@pytest.mark.alone`.

Tests run side by side in several processes, which would measure one another. Each test holds a shared lock,
and a test that is to be alone an exclusive one. Those come last, so that the others wait for them once.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest

GATE, RUNNING = 0, 1  # bytes of the file that are locked; who waits to be alone holds the gate


class Turns:
    """The turns of this process's tests among those of all processes that test the same checkout.

    The locks are of the process (fcntl(2)): what a test starts does not inherit them, and they end with it.
    """

    def __init__(self, checkout: Path) -> None:
        name = f"runstore-tests-{os.geteuid()}-{crc32(bytes(checkout)):08x}.lock"
        self._file = os.open(Path(tempfile.gettempdir(), name), os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        fcntl.lockf(self._file, kind, 1, GATE)
        try:
            fcntl.lockf(self._file, kind, 1, RUNNING)
            if not alone:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, GATE)
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None
