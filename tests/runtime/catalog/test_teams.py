"""A hierarchy's definition, and the strands agents that are made of it."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from weakref import WeakSet

import msgspec
import pytest
from strands import Agent, tool
from strands.models import Model

from runstore.core.codec import RecordedEvent
from runstore.core.errors import AgentError, ConfigError
from runstore.core.events import AgentStarted, Message, Request, Token, ToolFinished, ToolStarted, Usage
from runstore.core.hierarchy import MAX_HIERARCHY_BYTES, ROOT, Hierarchy, check_size
from runstore.core.ports import AgentResult
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.specs import ModelSpec
from runstore.runtime.catalog.teams import HierarchySettings, Teams
from runstore.runtime.strands.agent import StrandsAgent
from runstore.runtime.strands.team import TeamModel, build_team
from tests.kit.polling import until
from tests.kit.teams import hierarchy
from tests.runtime.recording import ListRecorder, again_after, context, read, spoken, text
from tests.runtime.strands_kit import Playbook, delta, say, use

FAST = ModelSpec(model="scripted")
OFFICE = {
    "Red": {"Ann": [], "Bob": []},
    "Blue": {"Cid": []},
}


def made(teams: dict[str, Any], **models: str) -> Hierarchy:
    return msgspec.convert({**hierarchy(**teams), **models}, Hierarchy)


def teams_with(tools: dict[str, str] | None = None, **models: ModelSpec) -> Teams:
    return Teams(HierarchySettings(models={"scripted": FAST, **models}, tools=tools or {}))


async def run_team(
    agent: Agent, task: str, history: list[RecordedEvent] | None = None
) -> tuple[ListRecorder, AgentResult]:
    recorder = ListRecorder(history or ())
    driven = StrandsAgent(agent, context(agent="hierarchy:x"), WeakSet(), root=ROOT)
    return recorder, await driven.run(task, history or [], recorder)


async def run(teams: Teams, asked: Hierarchy, task: str) -> tuple[ListRecorder, AgentResult]:
    return await run_team(await teams.build(teams.definition(asked)), task)


def said(recorder: ListRecorder) -> dict[str, str]:
    """The text of each agent, by its path."""
    tokens = recorder.of(Token)
    return {path: text([t for t in tokens if t.agent == path]) for path in {t.agent for t in tokens}}


# The definition in a run.


def test_a_definition_spells_out_models_and_tools() -> None:
    own = ModelSpec(model="openai", model_args={"model_id": "m", "client_args": {"api_key": "s3cret"}})
    teams = teams_with({"search": "mine:search", "other": "mine:other"}, own=own)
    definition = teams.definition(made({"Red": {"Ann": ["search"]}}, model="own"))
    assert definition["tools"] == {"search": "mine:search"}
    assert definition["models"]["scripted"] == {"model": "scripted"}
    assert definition["models"]["own"]["model_args"]["client_args"] == {"api_key": "***"}
    assert definition["hierarchy"]["model"] == "own"
    assert definition["hierarchy"]["teams"][0]["workers"][0]["model"] == "scripted"


async def test_a_hierarchy_is_built_from_what_the_run_holds() -> None:
    teams = teams_with()
    definition = AgentCatalog({}, run_timeout_s=5).timed(teams.definition(made({"Red": {"Ann": []}})))
    assert definition["run_timeout_s"] == 5
    agent = await AgentCatalog({}, teams=teams).build("hierarchy:x", context(), definition)
    recorder = ListRecorder()
    assert (await agent.run("What is 2+2?", [], recorder)).result["text"] == "4"
    assert said(recorder).keys() == {"global", "global/Red", "global/Red/Ann"}


@pytest.mark.parametrize(("then", "now"), [(True, True), (False, True), (True, False)])
async def test_requests_are_recorded_unless_the_settings_of_then_or_now_say_no(then: bool, now: bool) -> None:
    queued, built = [
        Teams(HierarchySettings(models={"scripted": FAST}, record_requests=each)) for each in (then, now)
    ]
    definition = queued.definition(made({"Red": {"Ann": []}}))
    agent = await AgentCatalog({}, teams=built).build("hierarchy:x", context(), definition)
    recorder = ListRecorder()
    await agent.run("What is 2+2?", [], recorder)
    assert bool(recorder.of(Request)) is (then and now)


async def test_a_model_that_is_no_longer_allowed_is_reported() -> None:
    definition = teams_with(own=FAST).definition(made({"Red": {"Ann": []}}, model="own"))
    with pytest.raises(AgentError, match=r"\$\.model: there is no model 'own'"):
        await teams_with().build(definition)


# Delegating down, reporting up.


async def test_the_scripted_supervisors_delegate_to_all_and_report_up() -> None:
    recorder, ended = await run(teams_with(), made(OFFICE), "Count from 1 to 2")
    assert said(recorder) == {
        "global/Red/Ann": "1 2",
        "global/Red/Bob": "1 2",
        "global/Blue/Cid": "1 2",
        "global/Red": "1 2 1 2",
        "global/Blue": "1 2",
        "global": "1 2 1 2 1 2",
    }
    assert ended.result["text"] == "1 2 1 2 1 2"


async def test_each_agent_says_which_call_it_works_for() -> None:
    recorder, _ = await run(teams_with(), made(OFFICE), "hi")
    places = {(event.agent, event.call_id) for event in recorder.of(Token)}
    assert places == {
        ("global", None),
        ("global/Red", "scripted-1"),
        ("global/Blue", "scripted-2"),
        ("global/Red/Ann", "scripted-1"),
        ("global/Red/Bob", "scripted-2"),
        ("global/Blue/Cid", "scripted-1"),
    }


async def test_teams_work_in_parallel() -> None:
    paced = Teams(HierarchySettings(models={"scripted": ModelSpec(model="scripted", tokens_per_s=200)}))
    recorder, _ = await run(paced, made(OFFICE), "Count from 1 to 5")
    order = [event.agent.split("/")[1] for event in recorder.of(Token) if event.agent.count("/") == 2]
    assert order != sorted(order, reverse=True)
    assert order != sorted(order)


async def test_each_agent_speaks_through_the_model_that_it_names() -> None:
    body = hierarchy(Red={"Ann": [], "Bob": []})
    body["teams"][0]["workers"][1]["model"] = "twice"
    teams = teams_with(twice=ModelSpec(model="scripted", tokens=2))
    recorder, _ = await run(teams, msgspec.convert(body, Hierarchy), "one")
    assert (said(recorder)["global/Red/Ann"], said(recorder)["global/Red/Bob"]) == ("one", "one one")


async def test_the_largest_hierarchy_runs_with_its_models_spelled_out() -> None:
    body = hierarchy(**{f"T{t}": {f"W{w}": [] for w in range(20)} for t in range(20)})
    for number, team in enumerate(body["teams"]):
        team["supervisor_prompt"] = "p" * (12_300 if number else 1)
    body["teams"][0]["supervisor_prompt"] = "p" * (MAX_HIERARCHY_BYTES - len(msgspec.json.encode(body)) + 1)
    largest = msgspec.convert(body, Hierarchy)
    assert list(check_size(largest)) == []
    teams = Teams(HierarchySettings(model="longer-name", models={"longer-name": FAST}))
    assert await teams.build(teams.definition(largest))


# Agents as tools.


class Heard(Playbook):
    """Records its tool specifications and its own path."""

    specs: Any = None
    system_prompt: Any = None

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self.specs, self.system_prompt = args[0], args[1]
        async for chunk in super().stream(messages, *args, **kwargs):
            yield chunk


def office(models: Mapping[str, Model], body: dict[str, Any], **tools: Any) -> Agent:
    """A hierarchy whose agents have models of the test's own, by name."""
    both = {name: TeamModel(model, model, None) for name, model in models.items()}
    return build_team(msgspec.convert(body, Hierarchy), both, tools)


def with_own_models(body: dict[str, Any]) -> dict[str, Any]:
    """Each agent has a model of its own name."""
    body["model"] = "global"
    for team in body["teams"]:
        team["model"] = team["name"]
        for worker in team["workers"]:
            worker["model"] = worker["name"]
    return body


async def test_supervisors_know_prompts_names_and_roles() -> None:
    body = with_own_models(hierarchy(Red={"Ann": [], "Bob": []}))
    body["teams"][0]["workers"][0]["role"] = "reads the news"
    models = {
        "global": Heard(use(("g1", "Red", {"input": "?"})), say("done")),
        "Red": Heard(use(("r1", "Ann", {"input": "?"})), say("ok")),
        "Ann": Heard(say("news")),
        "Bob": Heard(),
    }
    await run_team(office(models, body), "hi")
    assert [(spec["name"], spec["description"]) for spec in models["global"].specs] == [
        ("Red", "The team Red: Ann (reads the news), Bob.")
    ]
    assert [(spec["name"], spec["description"]) for spec in models["Red"].specs] == [
        ("Ann", "reads the news"),
        ("Bob", "Bob"),
    ]
    assert models["global"].system_prompt == "Delegate to teams"
    assert models["Red"].system_prompt == "Delegate to workers"
    assert models["Ann"].system_prompt == "Answer."


async def test_one_worker_that_is_called_twice_at_once_works_twice() -> None:
    twice = use(("a1", "Ann", {"input": "one"}), ("a2", "Ann", {"input": "two"}))
    worker = Playbook(say("first"), say("second"))
    models = {
        "global": Playbook(use(("g1", "Red", {"input": "?"})), say("done")),
        "Red": Playbook(twice, say("both")),
        "Ann": worker,
    }
    recorder, _ = await run_team(office(models, with_own_models(hierarchy(Red={"Ann": []}))), "hi")
    started = [e.call_id for e in recorder.of(AgentStarted) if e.agent == "global/Red/Ann"]
    assert sorted(str(call) for call in started) == ["a1", "a2"]
    tokens = [(e.call_id, e.text) for e in recorder.of(Token) if e.agent == "global/Red/Ann"]
    assert len(tokens) == len({call for call, _ in tokens}) == 2
    assert sorted(heard[0]["content"][0]["text"] for heard in worker.heard) == ["one", "two"]
    assert max(len(heard) for heard in worker.heard) <= 2, "its input and its answer: no other agent's words"
    finished = [e.tool_use_id for e in recorder.of(ToolFinished) if e.agent == "global/Red"]
    assert sorted(finished) == ["a1", "a2"]


async def test_a_worker_that_is_called_again_does_not_remember() -> None:
    worker = Playbook(say("first"), say("second"))
    models = {
        "global": Playbook(use(("g1", "Red", {"input": "?"})), say("done")),
        "Red": Playbook(use(("a1", "Ann", {"input": "1"})), use(("a2", "Ann", {"input": "2"})), say("ok")),
        "Ann": worker,
    }
    await run_team(office(models, with_own_models(hierarchy(Red={"Ann": []}))), "hi")
    assert [heard[0]["content"] for heard in worker.heard] == [[{"text": "1"}], [{"text": "2"}]]


def noting(init: Callable[..., None], made: WeakSet[Agent]) -> Callable[..., None]:
    def noted(agent: Agent, *args: Any, **kwargs: Any) -> None:
        init(agent, *args, **kwargs)
        made.add(agent)

    return noted


@pytest.mark.slow
async def test_agents_of_calls_that_are_over_are_let_go_while_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = [use((f"a{n}", "Ann", {"input": "?"})) for n in range(9)]
    made = WeakSet[Agent]()
    monkeypatch.setattr(Agent, "__init__", noting(Agent.__init__, made))

    def few_alive() -> bool:
        gc.collect()
        return sum(each.name == "Ann" for each in made) in (1, 2)

    class Counting(Playbook):
        async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            await until(few_alive)  # timers of the last call's, which run out soon, may hold its agent
            async for chunk in super().stream(messages, *args, **kwargs):
                yield chunk

    worker = Counting(*[say("ok")] * 9)
    models = {
        "global": Playbook(use(("g1", "Red", {"input": "?"})), say("done")),
        "Red": Playbook(*calls, say("ok")),
        "Ann": worker,
    }
    await run_team(office(models, with_own_models(hierarchy(Red={"Ann": []}))), "hi")
    assert worker.calls == 9


class Talker(Playbook):
    """Never stops, and notes how many words it says after it was to."""

    after_cancel = 0
    cancelled = False

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        while self.after_cancel < 1_000:
            self.after_cancel += self.cancelled
            yield delta(text="on and ")
            await asyncio.sleep(0)


async def test_a_cancel_reaches_every_agent_at_work_at_once() -> None:
    talker = Talker()
    models = {
        "global": Playbook(use(("g1", "Red", {"input": "?"}))),
        "Red": Playbook(use(("r1", "Ann", {"input": "?"}))),
        "Ann": talker,
    }
    team = office(models, with_own_models(hierarchy(Red={"Ann": []})))
    driven = StrandsAgent(team, context(agent="hierarchy:x"), WeakSet(), root=ROOT)

    class Cancelling(ListRecorder):
        async def record(self, event: Any) -> None:
            await super().record(event)
            if isinstance(event, Token) and not talker.cancelled:
                talker.cancelled = True
                driven.cancel()

    await driven.run("hi", [], Cancelling())
    assert talker.after_cancel <= 3


async def test_usage_is_of_all_agents_and_names_their_models() -> None:
    recorder, ended = await run(teams_with(), made(OFFICE), "hi")
    usages = recorder.of(Usage)
    assert {usage.model for usage in usages} == {"scripted"}
    assert ended.usage["output_tokens"] == sum(usage.output_tokens for usage in usages) == 9


# Tools.


def shout(word: str) -> str:
    """Say it aloud."""
    return word.upper()


@tool
def whisper(word: str) -> str:
    """Say it softly."""
    return word.lower()


async def test_a_worker_has_the_tools_that_it_names_by_that_name() -> None:
    teams = teams_with({"loud": f"{__name__}:shout", "whisper": f"{__name__}:whisper"})
    recorder, _ = await run(teams, made({"Red": {"Ann": ["loud"], "Bob": ["whisper"]}}), "Hello")
    assert said(recorder)["global/Red"] == "HELLO hello"
    used = {(e.agent, e.name) for e in recorder.of(ToolFinished) if e.agent.count("/") == 2}
    assert used == {("global/Red/Ann", "loud"), ("global/Red/Bob", "whisper")}


@pytest.mark.parametrize(
    ("name", "attribute", "reason"),
    [("quiet", "whisper", "with the name 'whisper'"), ("office", "OFFICE", "not dict")],
)
async def test_an_object_that_is_not_a_tool_of_that_name_is_refused(
    name: str, attribute: str, reason: str
) -> None:
    teams = teams_with({name: f"{__name__}:{attribute}"})
    with pytest.raises(ConfigError, match=reason):
        await teams.build(teams.definition(made({"Red": {"Ann": [name]}})))


async def test_code_of_a_tool_that_cannot_be_imported_is_reported_before_it_is_needed() -> None:
    await AgentCatalog({}, teams=teams_with({"loud": f"{__name__}:shout"})).check()
    with pytest.raises(ConfigError, match="cannot import 'no_such_module:f'") as caught:
        await AgentCatalog({}, teams=teams_with({"loud": "no_such_module:f"})).check()
    assert caught.value.setting == "hierarchies.tools.loud"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"model": "none"}, "'none'"),
        ({"tools": {"a b": "mine:search"}}, "'a b'"),
        ({"tools": {"a": "no reference"}}, "package.module:function"),
    ],
)
def test_wrong_settings_are_reported(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HierarchySettings(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"model": "nope"}, {"model": "scripted", "model_args": {"a": 1}}, {"model": "ollama", "tokens": 1}],
)
def test_a_model_has_the_rules_of_an_agents(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="model"):
        ModelSpec(**wrong)


# A lost worker.


@pytest.mark.slow
async def test_wherever_its_worker_dies_a_team_comes_to_the_same_end() -> None:
    teams = teams_with({"loud": f"{__name__}:shout"})
    asked = made({"Red": {"Ann": ["loud"], "Bob": []}, "Blue": {"Cid": []}})
    recorder, ended = await run(teams, asked, "hello there")
    for seq in range(2, len(recorder.recorded) + 1):
        history = recorder.recorded[:seq]
        team = await teams.build(teams.definition(asked))
        again, ended_again = await run_team(team, "hello there", again_after(history, 2))
        assert ended_again.result == ended.result, seq
        assert _memory(again) == _memory(recorder), seq
        assert spoken(again.recorded) == spoken(recorder.recorded), seq
        _check_calls(again)


def _check_calls(recorder: ListRecorder) -> None:
    """Calls with a result are not made again: tools, and agents with all agents below them."""
    ended: set[tuple[str, str | None, str]] = set()
    for event in recorder.events:
        if isinstance(event, ToolStarted):
            assert (event.agent, event.call_id, event.tool_use_id) not in ended
        elif isinstance(event, ToolFinished):
            ended.add((event.agent, event.call_id, event.tool_use_id))


def _memory(recorder: ListRecorder) -> set[str]:
    """Every complete message, with its place; agents that work at once may end in any order."""
    messages = [event for event in read(recorder.recorded) if isinstance(event, Message)]
    encoded = [msgspec.json.encode(message, order="deterministic").decode() for message in messages]
    assert len(encoded) == len(set(encoded))
    return set(encoded)
