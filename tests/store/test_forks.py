"""The input of a fork, and the bound on the events read for it."""

from typing import Any

import pytest

from runstore import AgentSpec
from runstore.core.errors import TooLarge
from runstore.core.events import Message, Queued
from runstore.core.ids import new_run_id
from runstore.core.new_run import NewRun
from runstore.feed.memory import MemoryFeed
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.store import forks
from runstore.store.forks import ForkOptions, forked
from tests.contracts.memory_log import MemoryEventLog
from tests.events import started

ANSWER = Message(agent="shop", message={"role": "assistant", "content": [{"text": "fine"}]})


async def fork(asked: Any, **options: Any) -> NewRun:
    """A fork of a run that has answered an input."""
    log, run_id = MemoryEventLog(MemoryFeed()), new_run_id()
    catalog = AgentCatalog({"shop": AgentSpec(model="scripted")})
    events = [Queued(agent="shop", user_id="ann", input=asked), started(), ANSWER]
    head = await log.append(run_id, events)
    new = NewRun(agent="", input=None, user_id="ann")
    return await forked(log, catalog, run_id, head, ForkOptions(**options), new, reads_session=True)


@pytest.mark.parametrize("input", ["M", [{"text": "M"}], [{"role": "user", "content": [{"text": "M"}]}]])
async def test_a_fork_from_the_input_gets_it_as_it_was_given(input: Any) -> None:
    assert (await fork(input, at=1)).input == input
    assert (await fork(input)).input == input
    assert [each["role"] for each in (await fork(input, at=1, input="L")).input] == ["user", "user"]


async def test_an_answer_at_the_end_of_an_input_is_left_out() -> None:
    asked = {"role": "user", "content": [{"text": "M"}]}
    assert (await fork([asked, ANSWER.message], at=1)).input == [asked]


async def test_a_conversation_of_too_many_bytes_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "MAX_FORKED_BYTES", 2_000)
    assert (await fork("M")).input == "M"
    with pytest.raises(TooLarge, match="2,000 bytes"):
        await fork("M" * 2_000)
