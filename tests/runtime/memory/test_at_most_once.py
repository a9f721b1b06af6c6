"""A tool that may be called at most once is marked in the log before it runs, and forbids to run it again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert
from strands import Agent, tool
from strands.session import FileSessionManager

import runstore
from runstore import AgentSpec
from runstore.core.errors import AgentError, ConfigError
from runstore.core.events import Event, Failed, Started, ToolFailed, ToolFinished, ToolStarted
from runstore.core.hierarchy import Hierarchy
from runstore.core.ports import Agent as RunAgent
from runstore.core.run import Run
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.teams import HierarchySettings, Teams
from runstore.runtime.memory.at_most_once import is_at_most_once, obstacle
from tests.kit.polling import until
from tests.kit.teams import hierarchy
from tests.runtime.recording import ListRecorder, again_after, context
from tests.runtime.strands_kit import Playbook, agent, cut, drive, say, use

# How a tool is marked


@tool
@runstore.at_most_once
def below() -> str:
    """Marked before it was a tool."""
    return ""


@runstore.at_most_once
@tool
def above() -> str:
    """Marked as a tool."""
    return ""


class Desk:
    @runstore.at_most_once
    @tool
    def method(self) -> str:
        """Marked in a class."""
        return ""


@tool
def free() -> str:
    """Not marked."""
    return ""


def test_tools_are_marked_above_and_below_the_tool_decorator_and_as_methods() -> None:
    clerk = agent(Playbook(), name="clerk")
    marked = [below, above, Desk().method, runstore.at_most_once(clerk.as_tool())]
    assert [is_at_most_once(each) for each in (*marked, free, clerk.as_tool())] == [True] * 4 + [False] * 2
    runstore.at_most_once(clerk)
    assert is_at_most_once(clerk.as_tool())


def test_an_object_that_cannot_be_marked_is_refused() -> None:
    with pytest.raises(TypeError, match="at_most_once: an object of type str cannot be marked"):
        runstore.at_most_once("charge_card")


async def started(product: Agent) -> dict[str, bool]:
    recorder, _ = await drive(product)
    return {event.name: event.at_most_once for event in recorder.of(ToolStarted)}


async def test_the_log_says_it_before_the_tool_runs() -> None:
    clerk = agent(
        Playbook(use(("b", "below", {}), ("f", "free", {})), say("done")), below, free, name="clerk"
    )
    root = agent(Playbook(use(("c", "clerk", {"input": "?"}), ("a", "above", {})), say("ok")), clerk, above)
    assert await started(root) == {"clerk": False, "above": True, "below": True, "free": False}


def charge(amount: int) -> str:
    """A plain function."""
    return f"{amount} charged"


async def of_configuration(catalog: AgentCatalog, definition: Any = None, name: str = "demo") -> RunAgent:
    return await catalog.build(name, context(), definition or {})


async def test_the_configuration_names_tools_of_an_agent() -> None:
    spec = AgentSpec(model="scripted", tools=[f"{__name__}:charge"], at_most_once=["charge"])
    catalog, recorder = AgentCatalog({"demo": spec}), ListRecorder()
    assert catalog.definition("demo")["at_most_once"] == ["charge"]
    await (await of_configuration(catalog)).run("charge 3", [], recorder)
    assert [event.at_most_once for event in recorder.of(ToolStarted)] == [True]


async def test_a_name_that_no_tool_has_ends_the_run_before_it_does_anything() -> None:
    spec = AgentSpec(model="scripted", tools=[f"{__name__}:charge"], at_most_once=["charg"])
    with pytest.raises(ConfigError, match="at_most_once: the agent has no tool 'charg'; it has charge"):
        await of_configuration(AgentCatalog({"demo": spec}))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"model": "scripted", "at_most_once": ["charge"]},
            "names some of the agent's `tools`, but the agent has no tools",
        ),
        ({"factory": "a:b", "at_most_once": ["charge"]}, "`at_most_once` is for agents with a `model`"),
    ],
)
def test_an_agents_settings_that_mark_nothing_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AgentSpec(**settings)


def test_hierarchies_mark_only_tools_that_they_have() -> None:
    with pytest.raises(ValueError, match="`at_most_once`: there is no tool 'charg'; there are charge"):
        HierarchySettings(tools={"charge": f"{__name__}:charge"}, at_most_once=["charg"])


async def test_a_hierarchys_tools_are_marked_by_the_configuration_or_by_what_the_run_holds() -> None:
    tools = {"charge": f"{__name__}:charge"}
    marking = Teams(HierarchySettings(tools=tools, at_most_once=["charge"]))
    definition = marking.definition(convert(hierarchy(charge={"Ann": ["charge"]}), Hierarchy))
    assert definition["at_most_once"] == ["charge"]
    for teams in (marking, Teams(HierarchySettings(tools=tools))):
        recorder = ListRecorder()
        made = await of_configuration(AgentCatalog({}, teams=teams), definition, "hierarchy:x")
        await made.run("charge 3", [], recorder)
        once = {event.agent: event.at_most_once for event in recorder.of(ToolStarted)}
        assert once == {"global": False, "global/charge": False, "global/charge/Ann": True}


# Calls that the log forbids

CALL: dict[str, Any] = {"agent": "demo", "tool_use_id": "t1", "name": "charge"}
CHARGE = ToolStarted(**CALL, at_most_once=True)
CHARGED = ToolFinished(**CALL)
REFUSED = ToolFailed(**CALL)
FREE = ToolStarted(**CALL)
ELSEWHERE = ToolFinished(**CALL, call_id="c1")


@pytest.mark.parametrize(
    ("events", "resume", "restart"),
    [
        ([], None, None),
        ([FREE], None, None),
        ([FREE, CHARGED], None, None),
        ([CHARGE], "was running", "was running"),
        ([CHARGE, ELSEWHERE], "was running", "was running"),
        ([CHARGE, CHARGED], None, "has run"),
        ([CHARGE, REFUSED], None, "has run"),
        ([CHARGE, CHARGED, CHARGE], "was running", "was running"),
    ],
)
def test_a_call_forbids_a_second_call_of_itself(
    events: list[Event], resume: str | None, restart: str | None
) -> None:
    recorder = ListRecorder()
    for event in events:
        recorder.keep(event)
    for repeats, reason in ((False, resume), (True, restart)):
        failed = obstacle(recorder.recorded, repeats=repeats)
        if reason is None:
            assert failed is None
        else:
            assert failed is not None
            assert failed.code == "at_most_once"
            assert f"tool 'charge' of agent 'demo' (tool use t1) may be called at most once; it {reason}" in (
                failed.message
            )


async def test_an_agent_below_that_starts_over_does_not_call_it_again(tmp_path: Path) -> None:
    def family(number: int) -> tuple[Agent, Playbook]:
        model = Playbook(use(("a", "above", {})), say("done"))
        manager = FileSessionManager(session_id=str(number), storage_dir=str(tmp_path))
        clerk = agent(model, above, name="clerk", session_manager=manager)
        kept = clerk.as_tool(preserve_context=True)
        return agent(Playbook(use(("c", "clerk", {"input": "?"})), say("ok")), kept), model

    recorder, _ = await drive(family(1)[0])
    history = again_after(cut(recorder, lambda e: e.type == "tool.finished" and b"above" in e.data), 2)
    product, model = family(2)
    with pytest.raises(AgentError, match="'above' of agent 'demo/clerk' may be called at most once") as error:
        await drive(product, history=history)
    assert (error.value.code, model.calls) == ("at_most_once", 0)


# A worker that leaves on purpose

CALLS: list[str] = []


@runstore.at_most_once
async def pay(word: str) -> str:
    """Pay, and never return."""
    CALLS.append(word)
    await asyncio.Event().wait()
    return ""


async def test_a_tool_that_runs_when_its_worker_leaves_is_not_called_again(tmp_path: Path) -> None:
    CALLS.clear()
    url = f"sqlite:///{tmp_path}/runstore.db"
    config = tmp_path / "runstore.toml"
    config.write_text("[server]\ndrain_s = 0\n")
    agents = {"payer": AgentSpec(model="scripted", tools=[f"{__name__}:pay"])}
    async with runstore.open(url, config=config, agents=agents) as store:
        run_id = await store.start("payer", "go")
        await until(lambda: bool(CALLS))
    async with runstore.open(url, config=config, agents=agents) as store:
        run: Run = await store.state(run_id, wait_s=20)
        events = [event async for event in store.read(run_id)]
    assert (run.status, run.error_code, run.attempt) == ("error", "at_most_once", 1)
    assert "'pay' of agent 'payer'" in (run.error or "")
    assert [event.type for event in events if event.type in (Started.type, Failed.type)] == [
        "lifecycle.started",
        "lifecycle.failed",
    ]
    assert len(CALLS) == 1
