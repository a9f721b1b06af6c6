"""The input of a fork, and the bound on the events read for it."""

from typing import Any

import pytest

from runstore import AgentSpec
from runstore.core.errors import InvalidQuery, TooLarge
from runstore.core.events import Completed, Discarded, Event, InputReplaced, Message, Queued, ToolStarted
from runstore.core.ids import new_run_id
from runstore.core.new_run import NewRun
from runstore.feed.memory import MemoryFeed
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.teams import HierarchySettings, Teams
from runstore.store import forks
from runstore.store.forks import ForkOptions, forked
from tests.contracts.memory_log import MemoryEventLog
from tests.kit.events import started

ANSWER = Message(agent="shop", message={"role": "assistant", "content": [{"text": "fine"}]})


async def fork(
    asked: Any,
    *after: Event,
    definition: dict[str, Any] | None = None,
    teams: Teams | None = None,
    **options: Any,
) -> NewRun:
    """A fork of a run that has answered an input. `after`: what followed."""
    log, run_id = MemoryEventLog(MemoryFeed()), new_run_id()
    catalog = AgentCatalog({"shop": AgentSpec(model="scripted")}, teams=teams)
    queued = Queued(agent="shop", user_id="ann", input=asked, definition=definition or {})
    await log.append(run_id, [queued, started(), ANSWER, *after])
    head = await log.head(run_id)
    assert head is not None
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


async def test_the_last_answer_of_an_open_run_is_left_out_as_it_may_still_be_withheld() -> None:
    assert (await fork("M", input="L")).forked_at_seq == 1
    assert (await fork("M", Completed(result={"text": "fine"}), input="L")).forked_at_seq == 3
    more = InputReplaced(agent="shop", messages=[{"role": "user", "content": [{"text": "N"}]}], count=0)
    assert (await fork("M", more, at=3, input="L")).forked_at_seq == 3
    other = ToolStarted(agent="shop/clerk", tool_use_id="t", name="look", input={})
    assert (await fork("M", other, at=3, input="L")).forked_at_seq == 1


async def test_a_program_may_withhold_any_answer_of_its_own_run_until_the_run_has_ended() -> None:
    own = {"recorded": True}
    withheld = Discarded(agent="shop", reason="redacted", length=8)  # both answers, and the log accepts it
    with pytest.raises(InvalidQuery, match="once it has ended"):
        await fork("M", ANSWER, definition=own, at=3, input="L")
    ended = await fork("M", ANSWER, withheld, Completed(result={}), definition=own, input="L")
    assert "fine" not in str(ended.input)


async def test_a_conversation_of_too_many_bytes_is_not_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "MAX_FORKED_BYTES", 2_000)
    assert (await fork("M")).input == "M"
    with pytest.raises(TooLarge, match="2,000 bytes"):
        await fork("M" * 2_000)


async def test_a_fork_of_a_hierarchy_has_todays_settings_and_is_refused_without_its_tools() -> None:
    clerk = {"name": "Clerk", "system_prompt": "Pay.", "tools": ["pay"], "model": "scripted"}
    team = {"name": "Shop", "supervisor_prompt": "Lead.", "workers": [clerk], "model": "scripted"}
    held = {"name": "h", "global_prompt": "Lead.", "teams": [team], "model": "scripted"}
    earlier = {"hierarchy": held, "tools": {"pay": "old:pay"}}
    today = Teams(HierarchySettings(tools={"pay": "bank:pay"}, approve=["pay"]))
    again = (await fork("M", definition=earlier, teams=today, at=1)).definition
    assert again is not None
    assert (again["hierarchy"], again["tools"], again["approve"]) == (held, {"pay": "bank:pay"}, ["pay"])
    with pytest.raises(InvalidQuery, match=r"can no longer run: \$.teams\[0\].workers\[0\].tools\[0\]"):
        await fork("M", definition=earlier, teams=Teams(), at=1)
    assert (await fork("M", definition=earlier, teams=Teams(), agent="shop", at=1)).agent == "shop"


async def test_a_fork_of_a_hierarchy_that_is_no_longer_one_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="can no longer run: Object missing required field"):
        await fork("M", definition={"hierarchy": {"name": "h"}}, teams=Teams(), at=1)
