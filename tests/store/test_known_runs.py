"""Cached facts about runs do not outlive a purge or an erasure, of this process or of another one."""

import asyncio
from collections.abc import Callable

import pytest

from runstore.core.errors import LogUnavailable
from runstore.core.ids import new_run_id
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.store import runs
from runstore.store.known_runs import KnownRuns
from runstore.store.runs import RunStore
from tests.kit.events import COMPLETED, start_run
from tests.kit.purging import erase

OpenLog = Callable[..., SqlEventLog]


def store_of(log: SqlEventLog) -> RunStore:
    return RunStore(log.database, log, MemoryFeed(), AgentCatalog({}))


async def ended_run(log: SqlEventLog) -> str:
    run_id = await start_run(log)
    await log.append(run_id, [COMPLETED])
    return run_id


async def test_the_owner_of_a_run_follows_an_erasure_by_another_process(
    open_shared: OpenLog, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "OWNERS_TRUST_S", 0)
    log = open_shared()
    run_id, store = await ended_run(log), store_of(log)
    owner = await store.owner(run_id)
    await asyncio.to_thread(erase, database_url, owner.user_id)
    assert (await store.owner(run_id)).user_id.startswith("erased-")


async def test_a_known_owner_is_answered_while_the_database_is_away(
    open_shared: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "OWNERS_TRUST_S", 0)
    log = open_shared()
    run_id, store = await ended_run(log), store_of(log)
    owner = await store.owner(run_id)
    await log.database.close()
    assert await store.owner(run_id) == owner
    with pytest.raises(LogUnavailable):
        await store.owner(new_run_id())


async def test_a_cache_is_kept_without_a_purge_and_bounded(open_shared: OpenLog, database_url: str) -> None:
    log = open_shared()
    await ended_run(log)
    cache: KnownRuns[str] = KnownRuns(log.database, 2)
    known = await cache.current()
    known["1"] = "ann"
    assert await cache.current() is known
    known["2"] = "ben"
    assert await cache.current() == {}


async def test_a_look_is_trusted_for_its_time(open_shared: OpenLog, database_url: str) -> None:
    log = open_shared()
    run_id = await ended_run(log)
    trusting, looking = KnownRuns[str](log.database, 9, trust_s=1_000), KnownRuns[str](log.database, 9)
    for cache in (trusting, looking):
        (await cache.current())[run_id] = "known"
    await asyncio.to_thread(erase, database_url, (await store_of(log).owner(run_id)).user_id)
    assert (await trusting.current(), await looking.current()) == ({run_id: "known"}, {})
