"""The network fails at a COMMIT: the events are stored and acknowledged once.

In doubt the writer asks the database, even while the old connection's transaction still goes on. The COMMIT
may still arrive then; see `SqlStore._look_up_attempt`.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

import runstore
from runstore.core.errors import LogUnavailable, SessionBusy
from runstore.database.dialects import mysql, postgresql
from runstore.eventlog import writer
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.feed.tail import Tail
from runstore.http.streaming.frames import native
from runstore.projections.runs import RunQuery
from tests.kit.commits import Side
from tests.kit.database import open_log_at
from tests.kit.events import COMPLETED, note, offer, read_run, start_run, texts, token
from tests.kit.frames import frame_of
from tests.kit.link import Link
from tests.kit.polling import until
from tests.kit.writer import held_writer
from tests.servers.databases import KINDS, empty_database
from tests.soak import SOAK

CARRYING = b"custom.note"  # what the COMMIT to be cut has in its transaction
SIDES: tuple[Side, ...] = ("before", "after")
APPENDS = 60  # of each of two writers
CUTS = 20  # at most, in this time


@pytest.fixture(scope="module", params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of each kind of server."""
    with empty_database(request.param, tmp_path_factory.mktemp("commits")) as url:
        yield url


@pytest.fixture
def link(database: str) -> Iterator[Link]:
    with Link(database) as link:
        yield link


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up a server that does not answer sooner than in production, and try again sooner."""
    for dialect in (mysql, postgresql):
        monkeypatch.setattr(dialect, "ANSWER_S", 1.0)
    monkeypatch.setattr(writer, "LAST_RETRY_S", 0.1)


@asynccontextmanager
async def opened(url: str, feed: MemoryFeed | None = None) -> AsyncIterator[SqlEventLog]:
    log = open_log_at(url, feed or MemoryFeed())
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def one_commit_of_all_kinds(log: SqlEventLog, feed: MemoryFeed, run_id: str) -> AsyncIterator[None]:
    """Offered text, a patient append and an impatient append, in one transaction.

    The end checks them: an append that got a seq has it, and an append without an answer is stored at most
    once.
    """
    async with held_writer(log, feed):
        offer(log, run_id, token("0"))
        patient = asyncio.create_task(log.append(run_id, [note("1"), note("2")], patient=True))
        impatient = asyncio.create_task(log.append(run_id, [note("3")]))
        await asyncio.sleep(0)
        offer(log, run_id, token("4"))
    yield
    last_seq, refusal = await asyncio.gather(patient, impatient, return_exceptions=True)
    assert isinstance(refusal, LogUnavailable)
    stored = await texts(log, run_id)
    assert stored in (["0", "1", "2", "3", "4"], ["0", "1", "2", "4"])
    assert last_seq == 5, "started, the text, and then the two"


async def shown(log: SqlEventLog, feed: MemoryFeed, run_id: str) -> bytes:
    """The events that a reader saw who followed the run from its beginning to its end."""
    return b"".join([body async for body in native(Tail(log, feed, run_id, after=0))])


async def replayed(log: SqlEventLog, run_id: str) -> bytes:
    return b"".join([frame_of(e) for e in await read_run(log, run_id)])


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("silent", [False, True], ids=["reset", "silent"])
@pytest.mark.parametrize("side", SIDES)
async def test_the_events_of_a_cut_commit_are_stored_once_and_shown_once(
    link: Link, side: Side, silent: bool
) -> None:
    feed = MemoryFeed()
    async with opened(link.url, feed) as log:
        for _ in range(SOAK):
            run_id = await start_run(log)
            seen = asyncio.create_task(shown(log, feed, run_id))
            cut = link.cut_commit(side, silent=silent, carrying=CARRYING)
            async with one_commit_of_all_kinds(log, feed, run_id):
                await asyncio.to_thread(cut.wait)
            await until(lambda: log.unavailable is None)
            await log.append(run_id, [COMPLETED])
            assert await seen == await replayed(log, run_id)


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("side", SIDES)
async def test_an_append_of_another_writer_is_neither_lost_nor_overwritten(
    database: str, link: Link, side: Side
) -> None:
    async with opened(link.url) as log, opened(database) as other:
        run_id = await start_run(log)
        link.refuse()  # until the other one has written
        cut = link.cut_commit(side, carrying=CARRYING)
        appending = asyncio.create_task(log.append(run_id, [note("0"), note("1")], patient=True))
        await asyncio.to_thread(cut.wait)
        await other.append(run_id, [note("2")])
        link.accept()
        assert await appending == (5 if side == "before" else 4)
        assert await texts(log, run_id) == (["2", "0", "1"] if side == "before" else ["0", "1", "2"])


@pytest.mark.usefixtures("impatience")
@pytest.mark.parametrize("side", SIDES)
async def test_a_programs_run_whose_beginning_was_cut_does_not_stay_open(link: Link, side: Side) -> None:
    async with runstore.open(link.url) as store:
        for number in range(SOAK):
            session = f"{side} {number}"
            cut = link.cut_commit(side, carrying=b"lifecycle.started")
            with pytest.raises(LogUnavailable):
                async with store.begin("importer", session_id=session):
                    raise AssertionError("the block is not entered")
            await asyncio.to_thread(cut.wait)
            await until(partial(is_free, store, session))
            following, *cut_ones = await store.find(RunQuery(session_id=session))
            assert following.status == "success"
            assert [run.status for run in cut_ones] == (["error"] if side == "after" else [])


async def is_free(store: runstore.LocalStore, session: str) -> bool:
    """Whether the session has no open run, and the log takes writes."""
    try:
        async with store.begin("importer", session_id=session):
            return True
    except (LogUnavailable, SessionBusy):
        return False


async def test_a_commit_that_arrives_when_its_writer_has_reconnected_is_waited_for(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old transaction goes on for this time: its rows must not be written before it has ended."""
    for dialect in (mysql, postgresql):
        monkeypatch.setattr(dialect, "ANSWER_S", 0.5)
        monkeypatch.setattr(dialect, "IDLE_S", 60)
    async with opened(link.url) as log:
        run_id = await start_run(log)
        cut = link.cut_commit("before", silent=True, carrying=CARRYING)
        before = link.accepted
        appending = asyncio.create_task(log.append(run_id, [note("0"), note("1")], patient=True))
        await asyncio.to_thread(cut.wait)
        await until(lambda: link.accepted > before + 1)  # its second new connection: the first waited in vain
        assert not appending.done()
        link.restore()
        assert await appending == 4
        assert await texts(log, run_id) == ["0", "1"]


async def cut_commits(link: Link, chance: random.Random, writing: "asyncio.Future[Any]") -> None:
    """Cut the connection at one COMMIT after the other, while a writer works."""
    for number in range(CUTS):
        cut = link.cut_commit(chance.choice(SIDES), carrying=b"llm.token")
        await until(lambda cut=cut: cut.happened.is_set() or writing.done())
        if writing.done():
            assert number > 2, "next to nothing was tried"
            break
    link.restore()


@pytest.mark.usefixtures("impatience")
async def test_two_writers_of_a_run_whose_network_goes_again_and_again_lose_and_repeat_nothing(
    database: str, link: Link
) -> None:
    chance = random.Random(2026)

    async def write(log: SqlEventLog, run_id: str, first: int) -> None:
        for number in range(first, first + APPENDS):
            while not offer(log, run_id, token(f"{number}")):
                await log.room(run_id)
            if number % 5 == 4:
                await log.append(run_id, [note(f"{number + 2 * APPENDS}")], patient=True)

    async with opened(link.url) as one, opened(link.url) as other, opened(database) as onlooker:
        for _ in range(SOAK):
            run_id = await start_run(onlooker)
            writing = asyncio.gather(write(one, run_id, 0), write(other, run_id, APPENDS))
            await cut_commits(link, chance, writing)
            await writing
            stored = [int(text) for text in await texts(onlooker, run_id)]
            assert sorted(n for n in stored if n < 2 * APPENDS) == list(range(2 * APPENDS))
            for first in (0, APPENDS):
                own = [n for n in stored if n < 2 * APPENDS and first <= n < first + APPENDS]
                assert own == sorted(own)
            noted = [n for n in stored if n >= 2 * APPENDS]
            assert len(noted) == len(set(noted)) == 2 * APPENDS // 5
