"""The log as a library: everything without HTTP."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import runstore
from runstore import AgentSpec, Custom, LocalStore
from runstore.core.errors import (
    AgentNotFound,
    ConfigError,
    InvalidCursor,
    InvalidEvent,
    RunActive,
    RunClosed,
    RunDeleted,
    RunNotFound,
    RunPurged,
    SessionBusy,
    WrongExpectedSeq,
)
from runstore.core.events import Completed, Token, ToolFinished, ToolStarted
from runstore.core.ids import new_run_id
from runstore.projections.runs import RunQuery
from runstore.runtime.leases.file_locks import FileLeases
from runstore.runtime.supervision import supervisor
from tests.kit.database import make_database
from tests.kit.polling import until
from tests.kit.purging import purge_run
from tests.kit.server import DEADLINE_S, serving
from tests.projections.examples import Totals, totals

Opened = AsyncIterator[LocalStore]


async def echo(input: str) -> AsyncIterator[str]:
    for word in input.split():
        yield f"{word} "


async def endless(input: str) -> AsyncIterator[str]:
    yield "on "
    await asyncio.Event().wait()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{make_database(tmp_path / 'runstore.db')}"


@pytest.fixture
async def store(url: str) -> Opened:
    """A log without agents."""
    async with runstore.open(url) as opened:
        yield opened


@pytest.fixture
async def working(url: str) -> Opened:
    """A log with agents."""
    async with runstore.open(url, agents={"echo": echo, "endless": endless}) as opened:
        yield opened


async def types(events: AsyncIterator[Any]) -> list[str]:
    return [event.type async for event in events]


# With agents


async def test_an_agent_runs_and_is_followed(working: LocalStore) -> None:
    run_id = await working.start("echo", "one two", session_id="s", metadata={"n": 1})
    events = [event async for event in working.tail(run_id)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert runstore.text(events) == "one two "
    run = await working.state(run_id)
    assert (run.status, run.user_id, run.session_id, run.metadata) == ("success", "local", "s", {"n": 1})


async def test_a_run_is_waited_for_and_seen_as_it_was(working: LocalStore) -> None:
    run_id = await working.start("echo", "hi")
    assert (await working.state(run_id, wait_s=DEADLINE_S)).status == "success"
    assert (await working.state(run_id, at=1)).status == "queued"


async def test_an_agent_may_be_named_or_specified(url: str) -> None:
    agents = {"named": f"{__name__}:echo", "specified": AgentSpec(model="scripted"), "given": echo}
    async with runstore.open(url, agents=agents) as store:
        for agent in agents:
            run_id = await store.start(agent, "hi")
            assert (await store.state(run_id, wait_s=DEADLINE_S)).status == "success"


async def test_the_agents_may_be_those_of_a_configuration(url: str, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[server]\ndatabase_url = "sqlite:///other.db"\n[agents.quick]\nmodel = "scripted"\n')
    async with runstore.open(url, config=config) as store:
        run_id = await store.start("quick", "one two")
        assert (await store.state(run_id, wait_s=DEADLINE_S)).result["text"] == "one two"
    assert not (tmp_path / "other.db").exists()


async def test_several_runs_are_followed_as_one_stream_until_all_have_ended(working: LocalStore) -> None:
    first, second = [await working.start("echo", text) for text in ("a b", "c")]
    seen: dict[str, list[int]] = {first: [], second: []}
    async for event in working.follow(first, second.upper()):
        seen[event.run_id].append(event.seq)
    for run_id, seqs in seen.items():
        assert seqs == [event.seq async for event in working.read(run_id)]
    text = [event async for event in working.follow(first, second, types=["llm.token"])]
    assert {event.type for event in text} == {"llm.token", "lifecycle.completed"}


async def test_a_purged_run_does_not_refuse_the_others(store: LocalStore, url: str) -> None:
    runs = []
    for _ in range(2):
        async with store.begin("mine") as run:
            runs.append(run.run_id)
    purge_run(url, runs[0])
    followed = [(event.run_id, event.type) async for event in store.follow(*runs)]
    assert followed[0] == (runs[0], "stream.gone")
    assert {run_id for run_id, _ in followed[1:]} == {runs[1]}


async def test_a_users_runs_are_followed_with_those_that_start_later(working: LocalStore) -> None:
    known = await working.start("endless", "x", user_id="ann")
    await working.start("echo", "not hers")
    ended: list[str] = []
    async with aclosing(working.follow(user_id="ann")) as events, asyncio.timeout(DEADLINE_S):
        started = None
        async for event in events:
            if started is None:
                started = await working.start("echo", "y", user_id="ann")
                await working.stop(known)
            assert event.run_id in (known, started)
            if event.ends:
                ended.append(event.run_id)
            if len(ended) == 2:
                break
    assert set(ended) == {known, started}


async def test_following_an_unreadable_run_is_refused(store: LocalStore) -> None:
    for run_ids, refusal in (([new_run_id()], RunNotFound), ([new_run_id()] * 101, ValueError)):
        with pytest.raises(refusal):
            await anext(store.follow(*run_ids))


async def test_a_run_is_stopped(working: LocalStore) -> None:
    run_id = await working.start("endless", "hi")
    await until(lambda: is_running(working, run_id))
    assert await working.stop(run_id, reason="enough")
    assert (await working.state(run_id, wait_s=DEADLINE_S)).reason == "enough"
    assert not await working.stop(run_id)


async def is_running(store: LocalStore, run_id: str) -> bool:
    return (await store.state(run_id)).status == "running"


async def test_the_same_key_is_the_same_run(working: LocalStore) -> None:
    first = await working.start("echo", "hi", idempotency_key="once")
    assert await working.start("echo", "hi", idempotency_key="once") == first


@pytest.mark.slow
async def test_closing_the_store_ends_its_tails_and_hands_its_runs_over(url: str) -> None:
    async with runstore.open(url, agents={"endless": endless}) as store:
        run_id = await store.start("endless", "hi")
        await until(lambda: is_running(store, run_id))
        following = asyncio.create_task(types(store.tail(run_id)))
        await asyncio.sleep(0)
    assert "lifecycle.completed" not in await following
    async with runstore.open(url, agents={"endless": endless}) as store:
        await until(lambda: second_attempt(store, run_id))


async def second_attempt(store: LocalStore, run_id: str) -> bool:
    return (await store.state(run_id)).attempt == 2


@pytest.mark.parametrize("agent", [lambda input: None, "no reference"])
def test_an_agent_that_the_log_could_not_name_is_refused(agent: Any) -> None:
    with pytest.raises(ConfigError, match="agent 'mine'"):
        asyncio.run(_open_with({"mine": agent}))


async def _open_with(agents: dict[str, Any]) -> None:
    async with runstore.open("sqlite:///never.db", agents=agents):
        pass


# Without agents


async def test_a_program_records_a_run_of_its_own(store: LocalStore) -> None:
    async with store.begin("importer", {"file": "a.csv"}, user_id="alice", metadata={"n": 1}) as run:
        await run.say("reading ")
        await run.record(ToolStarted(agent="importer", tool_use_id="1", name="parse", input={"rows": 2}))
        await run.commit(ToolFinished(agent="importer", tool_use_id="1", name="parse", output=2))
        assert (await store.state(run.run_id)).status == "running"
        await run.record(Custom("custom.progress", 0.5))
        run.result, run.usage = {"rows": 2}, {"input_tokens": 3}
    assert await types(store.read(run.run_id)) == [
        "lifecycle.queued", "lifecycle.started", "llm.token", "tool.started", "tool.finished",
        "custom.progress", "lifecycle.completed",
    ]  # fmt: skip
    state = await store.state(run.run_id)
    assert (state.status, state.agent_name, state.user_id) == ("success", "importer", "alice")
    assert (state.result, state.usage) == ({"rows": 2}, {"input_tokens": 3})


async def test_a_run_of_ones_own_is_followed_live(store: LocalStore) -> None:
    async with store.begin("importer") as run:
        tail = store.tail(run.run_id, after=2)
        await run.say("one")
        assert (await anext(tail)).data["text"] == "one"
        await run.say("two")
        assert (await anext(tail)).data["text"] == "two"
    assert await types(tail) == ["lifecycle.completed"]


async def test_a_block_that_raises_ends_its_run_as_failed(store: LocalStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.begin("importer") as run:
            _ = 1 / 0
    state = await store.state(run.run_id)
    assert (state.status, state.error_code, state.error) == (
        "error", "agent_error", "ZeroDivisionError: division by zero",
    )  # fmt: skip


async def test_a_block_that_is_cancelled_ends_its_run_as_stopped(store: LocalStore) -> None:
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with store.begin("importer") as run:
            begun.set_result(run.run_id)
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    run_id = await begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await store.state(run_id)).status == "stopped"


async def test_a_result_that_cannot_be_stored_ends_its_run_as_failed(store: LocalStore) -> None:
    with pytest.raises(InvalidEvent):
        async with store.begin("importer") as run:
            run.result = {"text": "x" * 2_000_000}
    assert (await store.state(run.run_id)).error_code == "event_too_large"


async def test_the_ending_is_the_blocks(store: LocalStore) -> None:
    with pytest.raises(InvalidEvent, match=r"lifecycle\.completed"):
        async with store.begin("importer") as run:
            await run.record(Completed(result={}))
    assert (await store.state(run.run_id)).status == "error"


async def test_events_are_appended_where_they_are_expected(store: LocalStore) -> None:
    async with store.begin("importer") as run:
        note = Custom("custom.note", {"n": 1})
        assert await store.append(run.run_id, [note, note], expected_seq=2) == 4
        with pytest.raises(WrongExpectedSeq):
            await store.append(run.run_id, [note], expected_seq=2)
    with pytest.raises(RunClosed):
        await store.append(run.run_id, [note])


async def test_reading_begins_after_a_cursor_and_passes_only_requested_types(store: LocalStore) -> None:
    async with store.begin("importer") as run:
        for word in ("one", "two"):
            await run.say(word)
    assert [event.seq async for event in store.read(run.run_id, after=3)] == [4, 5]
    assert await types(store.read(run.run_id, types=["llm.token"])) == ["llm.token"] * 2 + [
        "lifecycle.completed"
    ]
    assert await types(store.tail(run.run_id, types=["lifecycle.*"])) == [
        "lifecycle.queued", "lifecycle.started", "lifecycle.completed",
    ]  # fmt: skip


async def test_a_filter_has_a_bounded_number_of_names(store: LocalStore) -> None:
    async with store.begin("importer") as run:
        many = [f"custom.x{number}" for number in range(101)]
    with pytest.raises(ValueError, match="100 names"):
        await types(store.tail(run.run_id, types=many))


async def test_runs_are_found_and_deleted(store: LocalStore) -> None:
    async with store.begin("importer", session_id="s") as run:
        with pytest.raises(RunActive):
            await store.delete(run.run_id)
    assert [found.run_id for found in await store.find(RunQuery(session_id="s"))] == [run.run_id]
    await store.delete(run.run_id)
    assert await store.find() == []
    with pytest.raises(RunDeleted):
        await store.state(run.run_id)


async def test_a_purged_run_is_refused_and_found_by_itself(store: LocalStore, url: str) -> None:
    async with store.begin("importer") as run:
        for _ in range(3):
            await run.record(Custom("custom.large", "x" * 300_000))
    following = store.tail(run.run_id)
    assert (await anext(following)).seq == 1
    purge_run(url, run.run_id)
    with pytest.raises(RunPurged):
        [event async for event in following]
    for refused in (store.state(run.run_id), anext(store.read(run.run_id)), anext(store.tail(run.run_id))):
        with pytest.raises(RunPurged):
            await refused
    assert await store.find() == []
    assert [found.run_id for found in await store.find(RunQuery(purged=True))] == [run.run_id]


async def test_a_run_that_is_not_there_and_a_cursor_ahead_are_refused(store: LocalStore) -> None:
    with pytest.raises(RunNotFound):
        await anext(store.tail(new_run_id()))
    async with store.begin("importer") as run:
        with pytest.raises(InvalidCursor):
            await anext(store.tail(run.run_id, after=3))
        with pytest.raises(InvalidCursor):
            await anext(store.read(run.run_id, after=-1))


@pytest.mark.parametrize("run_id", ["", "nope", "{01890a5d-ac96-774b-bcce-b302099a8057}"])
async def test_an_invalid_run_id_is_no_run(store: LocalStore, run_id: str) -> None:
    for asked in (
        store.state(run_id),
        anext(store.read(run_id)),
        anext(store.tail(run_id)),
        store.append(run_id, [Custom("custom.note")]),
        store.stop(run_id),
        store.delete(run_id),
    ):
        with pytest.raises(RunNotFound):
            await asked


async def test_a_run_id_in_upper_case_is_the_same_run(store: LocalStore) -> None:
    async with store.begin("importer") as run:
        await run.say("hello")
    upper = run.run_id.upper()
    assert (await store.state(upper)).run_id == run.run_id
    for events in (store.read(upper), store.tail(upper)):
        assert {event.run_id async for event in events} == {run.run_id}


async def test_without_agents_none_is_started(store: LocalStore) -> None:
    with pytest.raises(AgentNotFound, match="without agents"):
        await store.start("demo", "hi")


@pytest.mark.slow
async def test_opening_the_log_leaves_others_runs_alone(url: str) -> None:
    async with runstore.open(url, agents={"endless": endless}) as store:
        run_id = await store.start("endless", "hi")
        await until(lambda: is_running(store, run_id))
    async with runstore.open(url) as store:
        assert not (await store.state(run_id)).closed
        assert (await store.state(run_id)).attempt == 1


# A program's own runs beside those who run agents


DIES = """
import asyncio, os, sys, runstore

async def main():
    async with runstore.open(sys.argv[1]) as store:
        async with store.begin("echo", "never an input of the agent's") as run:
            await run.commit(runstore.Custom("custom.note"))
            print(run.run_id, flush=True)
            os._exit(1)

asyncio.run(main())
"""


async def test_a_run_whose_program_died_fails_and_is_never_given_to_an_agent(url: str) -> None:
    died = subprocess.run([sys.executable, "-c", DIES, url], capture_output=True, text=True, check=False)
    run_id = died.stdout.strip()
    assert run_id, died.stderr
    async with runstore.open(url, agents={"echo": echo}) as store:
        state = await store.state(run_id, wait_s=DEADLINE_S)
    assert (state.status, state.error_code, state.attempt) == ("error", "worker_lost", 1)


async def test_a_stop_request_ends_a_program_s_run_where_agents_run_too(working: LocalStore) -> None:
    begun: list[str] = []

    async def work() -> None:
        async with working.begin("importer") as run:
            begun.append(run.run_id)
            await working.stop(run.run_id)
            await working.state(run.run_id, wait_s=DEADLINE_S)
            await run.commit(Token(agent="importer", text="too late"))

    with pytest.raises(RunClosed):
        await work()
    assert (await working.state(begun[0])).status == "stopped"


@pytest.mark.slow
async def test_a_programs_run_does_not_count_as_lost_while_its_block_goes_on(
    working: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SWEEP_S", 0.01)
    looks: list[set[str]] = []
    monkeypatch.setattr(FileLeases, "forget", lambda _, named: looks.append(named))
    async with working.begin("importer") as run:
        looks.clear()
        await until(lambda: len(looks) > 10)
        assert (await working.state(run.run_id)).status == "running"
    assert (await working.state(run.run_id)).status == "success"


async def test_a_programs_recorded_run_is_served(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runstore.db'}"
    async with runstore.open(url) as store, store.begin("importer") as run:
        await run.say("hello")
    with serving(tmp_path) as server, runstore.Client(str(server.http.base_url)) as client:
        assert runstore.text(client.stream(run.run_id)) == "hello"


LOGS = """
import asyncio, logging, sys, runstore

async def echo(input):
    yield input

async def main():
    async with runstore.open("sqlite:///logs.db", agents={"echo": echo}) as store:
        await store.state(await store.start("echo", "100% of it"), wait_s=20)

if len(sys.argv) > 1:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
asyncio.run(main())
"""


@pytest.mark.parametrize("told", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_library_logs_where_its_program_says(tmp_path: Path, told: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS, *(["told"] if told else [])],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == ""
    assert ("INFO runstore.runtime.attempts.starting run_started run_id=" in done.stderr) is told
    assert bool(done.stderr) is told


def test_importing_the_package_imports_none_of_its_rooms() -> None:
    code = (
        "import sys, runstore; assert 'open' in dir(runstore)\n"
        "print([name for name in sys.modules if name.startswith('runstore.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_name_of_the_package_is_there() -> None:
    for name in runstore._EXPORTS:
        assert getattr(runstore, name).__module__.startswith("runstore.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = runstore.nothing


async def test_a_program_takes_its_turn_in_a_session_or_is_refused(store: LocalStore) -> None:
    async with store.begin("importer", session_id="s"):
        with pytest.raises(SessionBusy):
            async with store.begin("importer", session_id="s"):
                raise AssertionError("the block is not entered")
    async with store.begin("importer", session_id="s"):
        pass


# The whole log.


async def test_the_whole_log_is_read_and_followed_by_position(working: LocalStore) -> None:
    run_ids = [await working.start("echo", "hi", user_id=user) for user in ("alice", "bob")]
    for run_id in run_ids:
        await working.state(run_id, wait_s=DEADLINE_S)
    events = [event async for event in working.read_all()]
    assert [event.position for event in events] == sorted({event.position for event in events})
    for run_id in run_ids:
        own = [(event.seq, event.type, event.data) for event in events if event.run_id == run_id]
        assert own == [(event.seq, event.type, event.data) async for event in working.read(run_id)]
    only = runstore.AuditQuery(user_id="bob", types=("llm.token", "lifecycle.*"))
    found = [event async for event in working.read_all(after=events[2].position, only=only)]
    assert found == [
        event
        for event in events[3:]
        if event.user_id == "bob" and event.type.startswith(("llm.token", "lifecycle."))
    ]
    async with aclosing(working.follow_all(after=events[-1].position)) as following:
        run_id = await working.start("echo", "c")
        assert (await anext(following)).run_id == run_id
    with pytest.raises(InvalidCursor):
        [event async for event in working.read_all(after=1 << 40)]


async def test_a_program_keeps_and_reads_a_projection_of_its_own(url: str) -> None:
    async with runstore.open(url, projections=[Totals()]) as store:
        async with store.begin("mine", user_id="ann") as run:
            await run.record(Custom("custom.step", {}))
        await store.projections.run(["totals"])
        counts = await store.projections.read("totals", lambda c, tables: totals(c, tables["totals"]))
        assert counts["custom.step"] == 1
        status = {each.name: each for each in await store.projections.status()}
        assert (status["totals"].state, status["totals"].lag_events) == ("running", 0)
        assert (await store.projections.verify("totals")).equal
        assert (await store.projections.rebuild("totals")).equal
        await store.projections.pause("totals")
        await store.projections.resume("totals")
        await store.projections.drop("totals")
        with pytest.raises(ConfigError, match="did you mean 'totals'"):
            await store.projections.verify("total")


async def test_a_projection_that_is_declared_wrongly_is_refused_at_the_start(url: str) -> None:
    class Wrong(Totals):
        name = "other"

    with pytest.raises(ConfigError, match="must be called 'other'"):
        async with runstore.open(url, projections=[Wrong()]):
            pass
