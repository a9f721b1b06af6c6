import subprocess
import sys
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from strands import Agent, tool
from strands.multiagent import Swarm

from runstore import AgentSpec
from runstore.core.errors import AgentError, AgentNotFound, ConfigError
from runstore.core.events import Token
from runstore.core.ports import RunContext
from runstore.runtime.catalog.agents import NO_LLM, AgentCatalog
from runstore.runtime.generator_agent import GeneratorAgent
from runstore.runtime.strands.agent import StrandsAgent
from runstore.runtime.strands.models import MODEL_NAMES, build_model
from tests.runtime.recording import ListRecorder, context, text
from tests.runtime.strands_kit import Playbook, agent, say


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A user's module, importable as `theirs`."""
    module = types.ModuleType("theirs")
    monkeypatch.setitem(sys.modules, "theirs", module)
    return module


async def said(catalog: AgentCatalog, name: str, input: Any = "hi") -> str:
    recorder = ListRecorder()
    built = await catalog.build(name, context(agent=name))
    await built.run(input, [], recorder)
    return text(recorder.of(Token))


async def made(factory: str) -> Any:
    return await AgentCatalog({"mine": AgentSpec(factory=factory)}).build("mine", context(agent="mine"))


async def refused(factory: str) -> str:
    with pytest.raises(AgentError) as caught:
        await made(factory)
    return str(caught.value)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`model` or a `factory`"),
        ({"model": "scripted", "factory": "a:b"}, "`model` or a `factory`"),
        ({"model": "nope"}, "there is no model 'nope'; there are scripted, anthropic"),
        ({"model": "ollama", "tokens": 3}, "`tokens` and `tokens_per_s` are for"),
        ({"factory": "a:b", "tokens_per_s": 3}, "`tokens` and `tokens_per_s` are for"),
        ({"model": "scripted", "tokens": 0}, "`tokens` must be from 1"),
        ({"model": "scripted", "tokens": 10**9}, "`tokens` must be from 1"),
        ({"model": "scripted", "tokens_per_s": -1}, "`tokens_per_s` must be from 0"),
        ({"model": "scripted", "tokens_per_s": float("nan")}, "`tokens_per_s` must be from 0"),
        ({"model": "scripted", "run_timeout_s": 0}, "`run_timeout_s` must be from"),
        ({"model": "scripted", "model_args": {"a": 1}}, "takes no `model_args`"),
        ({"model": "scripted", "tools": ["search"]}, "'search' must be of the form"),
        ({"factory": "mypackage.agents"}, "'mypackage.agents' must be of the form"),
        ({"factory": "a:b", "system_prompt": "x"}, "`system_prompt` is for agents with a `model`"),
        ({"factory": "a:b", "tools": ["a:b"]}, "`tools` is for agents with a `model`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AgentSpec(**settings)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="tokns"):
        msgspec.convert({"model": "scripted", "tokns": 3}, AgentSpec)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "-a", "x" * 65])
def test_a_name_that_cannot_stand_in_a_url_and_a_path_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="agent name"):
        AgentCatalog({name: AgentSpec(model="scripted")})


def test_demo_is_built_in_and_may_be_replaced() -> None:
    assert AgentCatalog({}).spec("demo").tokens_per_s == 20
    assert AgentCatalog({"demo": AgentSpec(model="scripted", tokens=3)}).spec("demo").tokens == 3


def test_the_error_for_an_unknown_agent_names_the_known_ones() -> None:
    catalog = AgentCatalog({"load": AgentSpec(model="scripted")})
    with pytest.raises(AgentNotFound, match="no agent 'nope'; there are demo, load"):
        catalog.spec("nope")


def test_a_definition_has_no_defaults_and_no_secrets() -> None:
    arguments = {
        "client_args": {"api_key": "s3cret", "base_url": "https://me:s3cret@host/v1", "max_retries": 2},
        "params": {
            "max_tokens": 100,
            "headers": [{"Authorization": "Bearer s3cret"}, {"X-Api-Key": "s3cret"}],
        },
        "aws_session_token": "s3cret",
        "credentials": {"user": "s3cret"},
        "model_id": "gpt",
    }
    definition = AgentCatalog({"a": AgentSpec(model="openai", model_args=arguments)}).definition("a")
    assert "s3cret" not in msgspec.json.encode(definition).decode()
    assert definition.keys() == {"model", "model_args"}
    assert definition["model_args"]["client_args"]["max_retries"] == 2
    assert definition["model_args"]["params"]["max_tokens"] == 100
    assert definition["model_args"]["model_id"] == "gpt"


def test_agents_are_described_and_a_scripted_one_says_that_it_is_not_an_llm() -> None:
    catalog = AgentCatalog({"mine": AgentSpec(factory="a:b", description="Mine.")})
    demo, mine = catalog.describe()
    assert (demo["name"], demo["model"], demo["note"]) == ("demo", "scripted", NO_LLM)
    assert mine == {"name": "mine", "description": "Mine.", "model": None}


def test_importing_the_catalog_does_not_import_strands() -> None:
    looks = "print([name for name in sys.modules if name.startswith('strands')])"
    code = f"import runstore.runtime.catalog.agents, sys; {looks}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Models


async def test_a_scripted_agent_says_the_configured_number_of_tokens() -> None:
    catalog = AgentCatalog({"load": AgentSpec(model="scripted", tokens=400, tokens_per_s=0)})
    assert len((await said(catalog, "load")).split()) == 400


async def test_tools_may_be_plain_functions_or_strands_tools(module: Any) -> None:
    def shout(words: str) -> str:
        """Say it loud."""
        return words.upper()

    module.shout, module.tool = shout, tool(shout)
    for name in ("shout", "tool"):
        catalog = AgentCatalog({"a": AgentSpec(model="scripted", tools=[f"theirs:{name}"])})
        assert await said(catalog, "a", "be quiet") == "BE QUIET"


async def test_a_thing_that_is_no_tool_is_refused(module: Any) -> None:
    module.thing = 3
    catalog = AgentCatalog({"a": AgentSpec(model="scripted", tools=["theirs:thing"])})
    with pytest.raises(ConfigError, match="not int"):
        await catalog.build("a", context())


class _Ollama:
    """As strands.models.ollama, whose host has no default."""

    def __init__(self, host: str | None, *, ollama_client_args: Any = None, **model_config: Any) -> None:
        self.made_with = {"host": host, **model_config}


def _with_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("strands.models.ollama")
    _Ollama.__init__.__annotations__["model_config"] = _unpack()
    module.OllamaModel = _Ollama
    monkeypatch.setitem(sys.modules, "strands.models.ollama", module)


def _unpack() -> Any:
    from typing_extensions import TypedDict, Unpack

    return Unpack[TypedDict("Config", {"model_id": str, "keep_alive": str}, total=False)]  # type: ignore[misc]


def test_a_provider_is_made_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_ollama(monkeypatch)
    model: Any = build_model("ollama", {"host": "http://127.0.0.1:11434", "model_id": "llama3.2"})
    assert model.made_with == {"host": "http://127.0.0.1:11434", "model_id": "llama3.2"}
    assert build_model("ollama", {"model_id": "x"}).made_with["host"] is None  # type: ignore[attr-defined]


def test_an_argument_that_a_model_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_ollama(monkeypatch)
    with pytest.raises(ConfigError, match="takes no argument modle; it takes host, keep_alive, model_id"):
        build_model("ollama", {"model_id": "x", "modle": "y"})


def test_a_model_that_refuses_its_arguments_says_why() -> None:
    with pytest.raises(ConfigError, match=r"model 'bedrock' cannot be made: .*region"):
        build_model("bedrock", {"region_name": "§"})


def test_a_model_without_a_model_id_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_ollama(monkeypatch)
    with pytest.raises(ConfigError, match="model 'ollama' needs model_id in model_args"):
        build_model("ollama", {})


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "strands.models.ollama", None)
    with pytest.raises(ConfigError, match=r"pip install 'runstore\[ollama\]'"):
        build_model("ollama", {"model_id": "x"})


def test_the_error_for_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=", ".join(MODEL_NAMES)):
        build_model("nope", {})


async def test_a_provider_that_cannot_be_made_ends_the_run_with_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "strands.models.ollama", None)
    catalog = AgentCatalog({"local": AgentSpec(model="ollama", model_args={"model_id": "x"})})
    with pytest.raises(ConfigError, match="pip install"):
        await catalog.build("local", context(agent="local"))


# Factories


def build() -> Agent:
    return agent(Playbook(say("built")))


def build_with_context(ctx: RunContext) -> Agent:
    return agent(Playbook(say(ctx.metadata["colour"])))


async def build_async(ctx: RunContext) -> Agent:
    return agent(Playbook(say(ctx.agent_name)))


def build_generator() -> Any:
    return speak


async def speak(input: str) -> AsyncIterator[str]:
    yield f"{input}!"


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("build", "built"),
        ("build_with_context", "green"),
        ("build_async", "mine"),
        ("build_generator", "hi!"),
        ("speak", "hi!"),
    ],
)
async def test_a_factory_may_be_sync_or_async_and_take_the_context_or_not(
    factory: str, expected: str
) -> None:
    catalog = AgentCatalog({"mine": AgentSpec(factory=f"{__name__}:{factory}")})
    assert await said(catalog, "mine") == expected


async def test_a_factorys_result_decides_how_the_agent_runs(module: Any) -> None:
    module.swarm = lambda: Swarm([agent(Playbook(), name="one")])
    assert isinstance(await made("theirs:swarm"), StrandsAgent)
    module.generator = lambda: speak
    assert isinstance(await made("theirs:generator"), GeneratorAgent)


async def test_a_factory_is_called_for_each_run_and_must_build_a_new_agent(module: Any) -> None:
    one = agent(Playbook())
    module.build = lambda: one
    catalog = AgentCatalog({"mine": AgentSpec(factory="theirs:build")})
    kept = await catalog.build("mine", context())
    with pytest.raises(AgentError, match="must build a new Agent for each run"):
        await catalog.build("mine", context())
    assert kept


async def test_a_factory_that_is_not_there_is_named() -> None:
    assert "cannot import 'no_such_module:build'" in await refused("no_such_module:build")
    assert "has no attribute 'nope'" in await refused(f"{__name__}:nope")


@pytest.mark.parametrize("raised", [ValueError("boom\n boom"), SystemExit("boom boom")])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_factory_that_raises_is_an_error_in_one_line(
    module: Any, raised: BaseException, asynchronous: bool
) -> None:
    def build() -> Any:
        raise raised

    async def build_async() -> Any:
        raise raised

    module.build = build_async if asynchronous else build
    message = await refused("theirs:build")
    assert message.startswith("factory 'theirs:build' failed: ")
    assert "boom boom" in message


async def test_a_factory_that_raises_what_no_future_can_hold_is_an_error_too(module: Any) -> None:
    module.build = lambda: next(iter([]))
    assert "factory 'theirs:build' failed: StopIteration" in await refused("theirs:build")


async def test_a_module_that_cannot_be_imported_is_an_error(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("import sys; sys.exit('bye')")
    monkeypatch.syspath_prepend(tmp_path)
    assert await refused("broken_one:build") == "importing 'broken_one' failed: SystemExit: bye"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: None,
            "returned None; expected a strands Agent, Graph or Swarm, or an async generator function",
        ),
        (lambda: 3, "returned an object of type int"),
        (lambda: speak("hi"), "return the function itself"),
        (3, "is an object of type int, not a function"),
    ],
)
async def test_the_error_of_a_factory_that_makes_no_agent_names_the_expected_types(
    module: Any, made: Any, message: str
) -> None:
    module.build = made
    assert message in await refused("theirs:build")


async def test_an_agent_in_place_of_a_factory_is_refused(module: Any) -> None:
    module.agent = agent(Playbook())
    assert "not a function that builds a new agent for each run" in await refused("theirs:agent")
