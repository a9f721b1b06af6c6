"""One real server for all of a worker's tests of models, and the stand-in that its agents talk to.

There is an agent `PROVIDER-MODEL` for each of strands' providers here and each model of the stand-in, with
`PROVIDER-tool` (has a tool), `PROVIDER-finish` (has one that ends its turn), `PROVIDER-late` (has a time
limit) and `PROVIDER-nobody` (at an address where nobody listens).
"""

import socket
from collections.abc import Iterator

import pytest

from tests.models.protocols import WIRES
from tests.models.standins import MODELS, ModelServer
from tests.server import ServerProcess, serving

PROVIDERS = tuple(WIRES)
KEY = "sk-a-key-that-nobody-must-read"
TOOLS = '''
from strands import ToolContext, tool

def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

@tool(context=True)
def finish(a: int, b: int, tool_context: ToolContext) -> str:
    """Answer at once."""
    tool_context.agent.cancel(after_current_tools=True)
    return "that is all"
'''


def agent_table(name: str, provider: str, model: str, url: str, *settings: str) -> str:
    """An agent as a user would configure it."""
    args = {
        "ollama": f'host = "{url}"',
        "openai": f'client_args = {{ base_url = "{url}/v1", api_key = "{KEY}", max_retries = 0 }}',
        "anthropic": (
            f'max_tokens = 100, client_args = {{ base_url = "{url}", api_key = "{KEY}", max_retries = 0 }}'
        ),
    }[provider]
    table = (f"[agents.{name}]", f'model = "{provider}"', f'model_args = {{ model_id = "{model}", {args} }}')
    return "\n".join((*table, *settings, ""))


def configuration(url: str, nobody: str) -> str:
    tables = ['[agents.scripted]\nmodel = "scripted"\n']
    for each in PROVIDERS:
        tables += [agent_table(f"{each}-{model}", each, model, url, "model_attempts = 2") for model in MODELS]
        tables.append(agent_table(f"{each}-tool", each, "talks", url, 'tools = ["agents:add"]'))
        tables.append(agent_table(f"{each}-finish", each, "talks", url, 'tools = ["agents:finish"]'))
        tables.append(agent_table(f"{each}-late", each, "stops-talking", url, "run_timeout_s = 0.3"))
        tables.append(agent_table(f"{each}-nobody", each, "talks", nobody))
    return "\n".join(tables)


@pytest.fixture(scope="session")
def models() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="session")
def running_server(models: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("models")
    with (
        socket.socket() as taken
    ):  # bound, but not listening: connections are refused while we hold the socket
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with serving(folder, configuration(models.url, nobody), TOOLS) as server:
            yield server


@pytest.fixture
def server(running_server: ServerProcess) -> Iterator[ServerProcess]:
    """The server, in whose log no failing model leaves a traceback, nor any agent its key."""
    before = len(running_server.log)
    yield running_server
    said = running_server.log[before:]
    assert "Traceback" not in said
    assert KEY not in said
