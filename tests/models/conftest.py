"""One real server for all of a worker's tests of models, and the stand-in that its agents talk to.

There is an agent `PROVIDER-MODEL` for each of strands' providers here and each model of the stand-in, with
`PROVIDER-tool` (has a tool), `PROVIDER-finish` (has one that ends its turn), `PROVIDER-object` (its answer
is an object), `PROVIDER-late` (has a time limit) and `PROVIDER-nobody` (at an address without a server).
"""

import socket
from collections.abc import Iterator

import pytest

from tests.kit.logs import assert_no_traceback
from tests.kit.server import ServerProcess, serving
from tests.models.protocols import WIRES
from tests.models.standins import MODELS, ModelServer

PROVIDERS = tuple(WIRES)
KEY = "sk-a-key-that-nobody-must-read"
TOOLS = '''
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import BeforeModelCallEvent

def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

def windowed(model):
    """An agent that keeps the last three messages, and puts the time of every call into its prompt."""
    def forget(event):
        event.agent.system_prompt = f"Call {len(event.agent.messages)}."
    built = Agent(
        model=model, system_prompt="Be brief.", tools=[tool(add)], callback_handler=None,
        conversation_manager=SlidingWindowConversationManager(window_size=3, should_truncate_results=False),
    )
    built.add_hook(forget, BeforeModelCallEvent)
    return built

class Pair(BaseModel):
    """Two numbers."""
    a: int
    b: int

def objects(model):
    """An agent that answers with an object."""
    return Agent(model=model, tools=[tool(add)], structured_output_model=Pair, callback_handler=None)

def openai():
    from strands.models.openai import OpenAIModel
    args = {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0}
    return OpenAIModel(model_id="talks", client_args=args, params={"temperature": 0.5})

def anthropic():
    from strands.models.anthropic import AnthropicModel
    args = {"base_url": URL, "api_key": KEY, "max_retries": 0}
    return AnthropicModel(model_id="talks", client_args=args, max_tokens=100)

def ollama():
    from strands.models.ollama import OllamaModel
    return OllamaModel(URL, model_id="talks", temperature=0.5)

def windowed_openai(): return windowed(openai())
def windowed_anthropic(): return windowed(anthropic())
def windowed_ollama(): return windowed(ollama())
def objects_openai(): return objects(openai())
def objects_anthropic(): return objects(anthropic())
def objects_ollama(): return objects(ollama())

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
        tables.append(f'[agents.{each}-object]\nfactory = "agents:objects_{each}"\n')
        tables.append(f'[agents.{each}-windowed]\nfactory = "agents:windowed_{each}"\nmemory = "session"\n')
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
        with serving(
            folder, configuration(models.url, nobody), TOOLS + f"\nURL, KEY = {models.url!r}, {KEY!r}\n"
        ) as server:
            yield server


@pytest.fixture
def server(running_server: ServerProcess) -> Iterator[ServerProcess]:
    """The server, in whose log no failing model leaves a traceback, nor any agent its key."""
    before = len(running_server.log)
    yield running_server
    said = running_server.log[before:]
    assert_no_traceback(said)
    assert KEY not in said
