"""Who is taken for dead: only who gave no sign of life for a whole lease, while it could have been seen."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from runstore.eventlog.feed import MemoryFeed
from runstore.workers import HeartbeatLeases
from tests.database import make_database, open_sqlite_log

LOOKS_S = 0.5  # between two looks, as the supervisor's
FOR_EVER_S = 3_600.0  # the lease of a worker that beats when it begins, and then not again


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def join(tmp_path: Path, clock: Clock) -> AsyncIterator[Callable[..., HeartbeatLeases]]:
    """`join(lease_s)` makes one more worker of a database; all see the same clock."""
    log = open_sqlite_log(make_database(tmp_path / "runstore.db"), MemoryFeed())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(log.close)

        def join(lease_s: float) -> HeartbeatLeases:
            leases = HeartbeatLeases(log, lease_s=lease_s, capacity=1, clock=clock)
            stack.push_async_callback(leases.release)
            return leases

        yield join


async def watched_s(watcher: HeartbeatLeases, worker: HeartbeatLeases, clock: Clock, upto_s: float) -> float:
    """After how long `worker` is taken for dead; infinite if not in `upto_s`."""
    begun_at = clock.now
    while clock.now - begun_at <= upto_s:
        if await watcher.dead({worker.worker_id}):
            return clock.now - begun_at
        clock.now += LOOKS_S
    return float("inf")


@pytest.mark.parametrize(("lease_s", "at_most_s"), [(15, 15), (3, 3), (1, 3)])
async def test_a_worker_that_gives_no_sign_is_dead_after_its_lease(
    join: Callable[..., HeartbeatLeases], clock: Clock, lease_s: float, at_most_s: float
) -> None:
    """A short lease too; whoever looks less often than others beat counts less than has passed."""
    watcher, worker = join(lease_s), join(FOR_EVER_S)
    await worker.hold()
    assert lease_s <= await watched_s(watcher, worker, clock, 60) <= at_most_s


async def test_a_worker_that_beats_is_alive(join: Callable[..., HeartbeatLeases], clock: Clock) -> None:
    watcher, worker = join(1), join(FOR_EVER_S)
    await worker.hold()
    for _ in range(10):
        await worker._beat()
        assert await watched_s(watcher, worker, clock, 1) == float("inf")


@pytest.mark.parametrize("lease_s", [15, 1])
async def test_after_an_outage_everybody_has_a_whole_lease_again(
    join: Callable[..., HeartbeatLeases], clock: Clock, lease_s: float
) -> None:
    watcher, worker = join(lease_s), join(FOR_EVER_S)
    await worker.hold()
    for _ in range(3):
        assert await watched_s(watcher, worker, clock, lease_s / 2) == float("inf")
        clock.now += 60  # nobody could look
    assert await watched_s(watcher, worker, clock, 60) >= lease_s


async def test_who_cannot_write_itself_takes_nobody_for_dead(
    join: Callable[..., HeartbeatLeases], clock: Clock
) -> None:
    watcher, worker = join(60), join(FOR_EVER_S)
    await worker.hold()
    await watcher.hold()  # and its next beat is 12 real seconds away
    assert await watched_s(watcher, worker, clock, 180) == float("inf")
