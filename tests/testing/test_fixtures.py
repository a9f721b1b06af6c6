"""Replays and fixtures of a program that has the log open, on real databases."""

import json
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool

import runstore
from runstore.demo.model import ScriptedModel
from runstore.testing import replay_fixture
from tests.kit.database import make_database

CALLS: list[str] = []


@tool
def search(q: str) -> str:
    """Search."""
    CALLS.append(q)
    return f"found {q}"


def searcher() -> Agent:
    return Agent(model=ScriptedModel(), tools=[search], callback_handler=None)


async def words(input: Any) -> Any:
    yield "words"


async def ended(store: runstore.LocalStore, agent: str, input: str, **more: Any) -> str:
    run_id = await store.start(agent, input, **more)
    await store.state(run_id, wait_s=30)
    CALLS.clear()
    return run_id


async def test_a_run_is_replayed_and_becomes_a_fixture(tmp_path: Path) -> None:
    url = f"sqlite:///{make_database(tmp_path / 'runstore.db')}"
    async with runstore.open(url, agents={"searcher": searcher, "words": words}) as store:
        run_id = await ended(store, "searcher", "three planets")
        events = [event async for event in store.read(run_id)]
        done = await store.replay(run_id)
        assert (done.equal, done.answered, done.called, CALLS) == (True, 1, 0, []), done
        assert [event async for event in store.read(run_id)] == events
        assert len(await store.find()) == 1
        file = tmp_path / "run.json"
        file.write_bytes(await store.fixture(run_id))
        with pytest.raises(runstore.InvalidQuery, match="only strands agents"):
            await store.replay(await ended(store, "words", "hi"))
        with pytest.raises(runstore.RunNotFound):
            await store.replay("nothing")
        with pytest.raises(ValueError, match="timeout"):
            await store.replay(run_id, timeout_s=0)
    assert replay_fixture(file, searcher())["text"] == "found three planets"
    assert CALLS == []
    async with runstore.open(url) as store:
        with pytest.raises(runstore.AgentNotFound):
            await store.replay(run_id)


async def test_a_run_with_a_memory_begins_with_it_again(tmp_path: Path) -> None:
    url = f"sqlite:///{make_database(tmp_path / 'runstore.db')}"
    spec = runstore.AgentSpec(factory=f"{__name__}:searcher", memory="session")
    async with runstore.open(url, agents={"searcher": spec}) as store:
        await ended(store, "searcher", "one planet", session_id="s")
        run_id = await ended(store, "searcher", "two planets", session_id="s")
        found = json.loads(await store.fixture(run_id))
        assert [message["role"] for message in found["memory"]] == ["user", "assistant", "user", "assistant"]
        assert found["memory"][0]["content"] == [{"text": "one planet"}]
        assert (await store.replay(run_id)).equal
    file = tmp_path / "run.json"
    file.write_text(json.dumps(found))
    agent = searcher()
    replay_fixture(file, agent)
    assert len(agent.messages) == 8
