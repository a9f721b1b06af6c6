"""Reading in order of position: events below the mark are final, for any overlap of writers."""

import itertools
import random
import threading
import time
from collections.abc import Callable

import pytest

from runstore.database.dialects import Dialect
from runstore.eventlog.queries import read_all
from runstore.eventlog.sql import SqlEventLog
from tests.kit.events import start_run
from tests.kit.polling import DEADLINE_S
from tests.kit.writer import writing
from tests.servers.databases import DATABASES

OpenLog = Callable[..., SqlEventLog]

WRITERS = 4
WRITES = 40  # of each writer

servers = pytest.mark.parametrize(
    "database_url", [kind for kind in DATABASES if kind != "sqlite"], indirect=True
)


class Naive:
    """Reads what it can see after the last position that it has seen."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.found: list[str] = []
        self._after = 0

    def read(self) -> None:
        with self._dialect.engine.connect() as connection:
            page = read_all(connection, self._after, None, 1_000)
        self.found += [event.run_id for event in page]
        self._after = page[-1].position if page else self._after


class Following:
    """Reads as projections do."""

    def __init__(self, log: SqlEventLog) -> None:
        self._log = log
        self.found: list[str] = []
        self._after = 0

    async def read(self) -> None:
        page = await self._log.read_all(after=self._after)
        assert [event.position for event in page] == sorted(event.position for event in page)
        self.found += [event.run_id for event in page]
        self._after = page[-1].position if page else self._after


@servers
async def test_an_event_that_is_committed_after_one_behind_it_is_not_passed_over(
    open_shared: OpenLog, dialect: Dialect
) -> None:
    naive, following = Naive(dialect), Following(open_shared())
    with writing(dialect) as (early, first):
        with writing(dialect) as (late, second):
            late.commit()
        naive.read()
        await following.read()
        assert following.found == []
        early.commit()
    naive.read()
    await read_until(following, 2)
    assert naive.found == [second]
    assert following.found == [first, second]


@servers
async def test_a_hole_left_by_a_rollback_delays_no_reader(open_shared: OpenLog, dialect: Dialect) -> None:
    following = Following(open_shared())
    with writing(dialect) as (connection, _):
        connection.rollback()
    with writing(dialect) as (connection, run_id):
        connection.commit()
    await following.read()
    assert following.found == [run_id]


@servers
async def test_writers_that_overlap_and_roll_back_lose_no_event(
    open_shared: OpenLog, dialect: Dialect
) -> None:
    naive, following = Naive(dialect), Following(open_shared())
    committed: list[str] = []
    reading, seeds = threading.Lock(), itertools.count()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(WRITES):
            with writing(dialect) as (connection, run_id):
                time.sleep(chance.uniform(0, 0.004))  # what takes time between a position and its commit
                if chance.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    committed.append(run_id)
            with reading:  # while others have a position already
                naive.read()

    deadline = time.monotonic() + DEADLINE_S
    while len(naive.found) == len(committed):  # the writers have not overlapped yet, as on a busy machine
        assert time.monotonic() < deadline, "the writers did not overlap: the test shows nothing"
        writers = [threading.Thread(target=write, args=[next(seeds)]) for _ in range(WRITERS)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            await following.read()
        await read_until(following, len(committed))
        naive.read()
        assert sorted(following.found) == sorted(committed)


async def test_a_committed_event_can_be_read_at_once(open_shared: OpenLog) -> None:
    log, other = open_shared(), open_shared()
    run_id = await start_run(log)
    for reader in (log, other):
        assert [(event.run_id, event.seq) for event in await reader.read_all()] == [(run_id, 1), (run_id, 2)]


async def read_until(following: Following, count: int) -> None:
    """A writer that was in the way makes a reader pause."""
    deadline = time.monotonic() + DEADLINE_S
    while len(following.found) < count:
        assert time.monotonic() < deadline, following.found
        await following.read()
