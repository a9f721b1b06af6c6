"""Agents that fail: their run ends `error` with a message, and the server lives."""

from collections.abc import Iterator

import pytest

from tests.kit.logs import assert_no_traceback
from tests.kit.server import ServerProcess, serving

# name → what its function is, and what its run's error must say
FAILING: dict[str, tuple[str, list[str]]] = {
    "raising_factory": ("def raising_factory():\n    raise OSError('no such model')", ["no such model"]),
    "exiting_factory": ("def exiting_factory():\n    raise SystemExit(3)", ["SystemExit"]),
    "no_agent": ("def no_agent():\n    return 5", ["int"]),
    "raising": (
        "async def raising(input):\n    yield 'so far '\n    raise ValueError('it broke\\nin two lines')",
        ["ValueError", "it broke"],
    ),
    "exiting": ("async def exiting(input):\n    yield 'so far '\n    raise SystemExit(3)", ["SystemExit"]),
    "too_large": (
        "async def too_large(input):\n    yield {'type': 'custom.a', 'data': 'x' * (1 << 20)}",
        ["1,048,576"],
    ),
    "no_json": ("async def no_json(input):\n    yield {'type': 'custom.a', 'data': float}", []),
    "endless_json": (
        "async def endless_json(input):\n    loop = []\n    loop.append(loop)\n"
        "    yield {'type': 'custom.a', 'data': loop}",
        ["nested too deep"],
    ),
    "forging": (
        "async def forging(input):\n    yield {'type': 'lifecycle.completed', 'data': {}}",
        ["lifecycle.completed"],
    ),
    "no_event": ("async def no_event(input):\n    yield 5", ["int"]),
    "breaking_model": (
        "def breaking_model():\n    return Agent(model=Breaking())",
        ["the connection to the model failed or broke, or the model's provider failed"],
    ),
}
HEAD = """
from strands import Agent
from strands.models import Model

class Breaking(Model):
    def update_config(self, **config):
        pass

    def get_config(self):
        return {}

    def structured_output(self, *args, **kwargs):
        raise NotImplementedError

    async def stream(self, *args, **kwargs):
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"text": "so far "}}}
        raise ConnectionError("the connection to the model was lost")

"""
CONFIG = "".join(f'[agents.{name}]\nfactory = "agents:{name}"\n' for name in FAILING)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    agents = HEAD + "\n\n".join(source for source, _ in FAILING.values())
    with serving(tmp_path_factory.mktemp("bad-agents"), CONFIG, agents) as server:
        yield server


@pytest.mark.parametrize("agent", [name for name in FAILING if name != "no_json"])
def test_a_failing_agent_ends_its_run_with_an_error_that_says_why(server: ServerProcess, agent: str) -> None:
    ended = server.ended(server.begin(agent))
    assert ended["status"] == "error"
    assert ended["error_code"]
    assert ended["result"] is None
    for word in FAILING[agent][1]:
        assert word in ended["error"]


@pytest.mark.parametrize("agent", ["raising", "exiting", "breaking_model"])
def test_earlier_text_is_kept(server: ServerProcess, agent: str) -> None:
    run_id = server.begin(agent)
    server.ended(run_id)
    said = [event["data"]["text"] for event in server.events(run_id) if event["type"] == "llm.token"]
    assert said == ["so far "]


def test_an_object_that_json_does_not_know_is_stored_as_what_it_says_of_itself(server: ServerProcess) -> None:
    run_id = server.begin("no_json")
    assert server.ended(run_id)["status"] == "success"
    assert [e["data"] for e in server.events(run_id) if e["type"] == "custom.a"] == ["<class 'float'>"]


def test_after_all_of_them_the_server_runs_the_next(server: ServerProcess) -> None:
    for agent in FAILING:
        server.ended(server.begin(agent))
    assert server.ended(server.begin("demo", "one two"))["status"] == "success"
    assert_no_traceback(server.log)
