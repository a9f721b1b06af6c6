"""Forked processes hold none of the descriptors by which others see whether this process is alive."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runstore.forks import forget, keep_from_forks
from runstore.runtime.leases.file_locks import FileLeases
from tests.kit.polling import DEADLINE_S

# Python 3.12 warns of every fork beside threads, such as those of the test runner.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@contextmanager
def forked() -> Iterator[None]:
    """A forked process that outlives the block."""
    (wait, go), (begun, begin) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        os.close(go)
        os.write(begin, b".")
        os.read(wait, 1)
        os._exit(0)
    for unused in (wait, begin):
        os.close(unused)
    try:
        os.read(begun, 1)
        os.close(begun)
        yield
    finally:
        os.close(go)
        os.waitpid(child, 0)


def test_the_other_end_of_a_socket_notices_its_end() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE_S)
    keep_from_forks(ours)
    with theirs, forked():
        forget(ours)
        ours.close()
        assert theirs.recv(1) == b""


def test_a_closed_descriptor_takes_no_other_with_its_number_away() -> None:
    ours, theirs = socket.socketpair()
    keep_from_forks(ours)
    ours.close()
    read, write = os.pipe()  # one of them has the number
    if not (child := os.fork()):
        os.write(write, b"a")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert os.read(read, 2) == b"a"
    os.close(read)
    theirs.close()
    forget(ours)


async def test_the_lock_of_a_worker_ends_with_it(tmp_path: Path) -> None:
    leases, others = FileLeases(tmp_path), FileLeases(tmp_path)
    await leases.hold()
    with forked():
        assert await others.dead({leases.worker_id}) == {}
        with open(os.devnull) as null:
            os.dup2(null.fileno(), leases.fileno())  # as a kill closes it
        assert await others.dead({leases.worker_id}) == {leases.worker_id: True}
    await leases.release()
