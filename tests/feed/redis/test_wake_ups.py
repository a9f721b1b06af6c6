"""Redis wakes at once: all polling that would find the events is switched off."""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from runstore import AgentSpec, app
from runstore.app import Runtime, open_runtime
from runstore.core.events import Custom
from runstore.core.new_run import NewRun
from runstore.core.ports import EventFilter
from runstore.core.run import Actor
from runstore.http.streaming.frames import native
from runstore.runtime.generator_agent import GeneratorContext
from runstore.runtime.supervision import supervisor
from runstore.settings import ServerSettings, Settings
from runstore.store.runs import RunStore
from tests.kit.database import make_database
from tests.kit.frames import read_frames, said
from tests.kit.polling import DEADLINE_S, until
from tests.kit.waits import core_waits
from tests.servers.databases import empty_database
from tests.servers.shared import shared_redis

NEVER_S = 3_600.0
SEEN_WITHIN_S = 0.5  # between two looks of the poll
NOTED = 4
NOTES = EventFilter(types=frozenset({"custom.note"}))
TALKER = AgentSpec(model="scripted", tokens=20, tokens_per_s=200)
SLOW = AgentSpec(model="scripted", tokens=10_000, tokens_per_s=20)
ASKING = AgentSpec(factory="tests.feed.redis.test_wake_ups:asking")
REPEATING = AgentSpec(factory="tests.feed.redis.test_wake_ups:repeating")


async def asking(input: str, ctx: GeneratorContext) -> AsyncIterator[str]:
    yield await ctx.ask("Which size?")


async def repeating(input: str, ctx: GeneratorContext) -> AsyncIterator[str]:
    """It has looked at the log for messages before it says a word."""
    yield f"{await ctx.added()}"
    while not (said := await ctx.added()):
        await asyncio.sleep(0.01)
    yield f"{said}"


@pytest.mark.slow
@pytest.mark.alone
async def test_without_redis_a_reader_gets_another_processes_append_within_half_a_second(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{make_database(tmp_path / 'runstore.db')}"
    server = ServerSettings(database_url=url, worker=False, drain_s=0)
    async with open_runtime(Settings(server)) as here, open_runtime(Settings(server)) as there:
        run_id = (await here.store.start(NewRun("demo", "hi", user_id="local"))).run.run_id
        stream = native(there.store.tail(run_id, after=1, only=NOTES))
        took = []
        with core_waits(os.getpid()) as waits:
            for number in range(NOTED):
                reading = asyncio.create_task(anext(stream))
                await until(lambda: there.feed.subscribers == 1)
                await here.store.append(run_id, [Custom("custom.note", f"note {number}")], by=Actor("alice"))
                appended_at = time.time()
                assert f"note {number}".encode() in await asyncio.wait_for(reading, DEADLINE_S)
                took.append((appended_at, time.time()))
        await stream.aclose()  # type: ignore[attr-defined]
    waits.check(SEEN_WITHIN_S, *took)


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[str]:
    with empty_database("postgresql", tmp_path) as url:
        yield url


@pytest.fixture
async def replica_and_worker(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Runtime, Runtime]]:
    """One that runs no agents, and one that does; neither ever looks by itself."""
    monkeypatch.setattr(supervisor, "SWEEP_S", NEVER_S)
    monkeypatch.setattr(app, "LOST_POLL_S", NEVER_S)
    prefix = f"runstore-test-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        opened = []
        for worker in (False, True):
            server = ServerSettings(
                database_url=database_url,
                redis_url=shared_redis(),
                redis_prefix=prefix,
                worker=worker,
                drain_s=0,
            )
            agents = {"talker": TALKER, "slow": SLOW, "asking": ASKING, "repeating": REPEATING}
            settings = Settings(server, agents=agents)
            opened.append(await stack.enter_async_context(open_runtime(settings)))
        yield opened[0], opened[1]


async def test_a_run_that_a_replica_queues_is_run_by_a_worker_and_followed_at_the_replica(
    replica_and_worker: tuple[Runtime, Runtime],
) -> None:
    replica, _ = replica_and_worker
    run_id = (await replica.store.start(NewRun("talker", "hi", user_id="local"))).run.run_id
    got = b""
    async with asyncio.timeout(DEADLINE_S):
        async for body in native(replica.store.tail(run_id, after=0)):
            got += body
    frames = list(read_frames([got]))
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert said(frames).split() == ["hi"] * 20
    assert frames[-1].type == "lifecycle.completed"


async def test_a_stop_at_a_replica_ends_a_run_of_a_worker(
    replica_and_worker: tuple[Runtime, Runtime],
) -> None:
    replica, worker = replica_and_worker
    run_id = (await replica.store.start(NewRun("slow", "hi", user_id="local"))).run.run_id
    await until(lambda: worker.supervisor.running == 1)
    await replica.store.stop(run_id, by=Actor("local"), reason="user")
    ended = (await replica.store.get(run_id, wait_s=DEADLINE_S)).run
    assert (ended.status, ended.forced) == ("stopped", False)


async def test_the_next_run_of_a_session_begins_when_the_one_before_it_has_ended_elsewhere(
    replica_and_worker: tuple[Runtime, Runtime],
) -> None:
    replica, _ = replica_and_worker
    session = {"user_id": "local", "session_id": "s"}
    runs = [(await replica.store.start(NewRun("talker", "hi", **session))).run.run_id for _ in range(2)]
    for run_id in runs:
        assert (await replica.store.get(run_id, wait_s=DEADLINE_S)).run.status == "success"


async def test_an_answer_at_a_replica_continues_a_run_of_a_worker(
    replica_and_worker: tuple[Runtime, Runtime],
) -> None:
    store = replica_and_worker[0].store
    run_id = (await store.start(NewRun("asking", "hi", user_id="local"))).run.run_id
    await reaches(store, run_id, "input.requested")
    head = await store.head(run_id)
    await store.inputs.answer(run_id, head, "1.1", "S", by=Actor("local"))
    ended = (await store.get(run_id, wait_s=DEADLINE_S)).run
    assert (ended.status, ended.result) == ("success", {"text": "S"})


async def test_an_agent_at_work_hears_a_message_that_a_replica_takes(
    replica_and_worker: tuple[Runtime, Runtime],
) -> None:
    store = replica_and_worker[0].store
    run_id = (await store.start(NewRun("repeating", "hi", user_id="local"))).run.run_id
    await reaches(store, run_id, "llm.token")
    await store.add_input(run_id, "And socks.", by=Actor("local"))
    assert (await store.get(run_id, wait_s=DEADLINE_S)).run.result == {"text": "[]['And socks.']"}


async def reaches(store: RunStore, run_id: str, type: str) -> None:
    """Return once the run has an event of this type."""
    only = EventFilter(types=frozenset({type}))

    async def has_one() -> bool:
        return bool(await store.events(run_id, after=0, only=only))

    await until(has_one)


async def test_a_replicas_appends_are_followed_at_the_other_process(
    replica_and_worker: tuple[Runtime, Runtime],
) -> None:
    replica, worker = replica_and_worker
    run_id = (await replica.store.start(NewRun("slow", "hi", user_id="local"))).run.run_id
    stream = native(worker.store.tail(run_id, after=0, only=NOTES))
    await replica.store.append(run_id, [Custom("custom.note", "from a replica")], by=Actor("alice"))
    async with asyncio.timeout(DEADLINE_S):
        while b"from a replica" not in await anext(stream):
            pass
    await stream.aclose()  # type: ignore[attr-defined]
