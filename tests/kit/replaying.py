"""A server whose agents can be replayed: their models and tools do what files beside them say.

`plan.json` maps the name of a model to its answers to an input; each is a text, or a list of calls `[name,
arguments]`. In a text, `{heard}` stands for the number of messages that the model got. The file `calls.log`
gets a line for each call of a real tool. The tool `wait` returns when the file `go` exists.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kit.server import ServerProcess, serving

AGENTS = '''
import asyncio
import json
from pathlib import Path

from strands import Agent, tool
from strands.hooks import AfterInvocationEvent
from strands.models import Model
from strands.multiagent import GraphBuilder, Swarm

FOLDER = Path(__file__).parent


class Planned(Model):
    """Gives the answers of its plan, from the first one for each new input."""

    def __init__(self, name):
        self.name = name

    def update_config(self, **config):
        pass

    def get_config(self):
        return {"model_id": f"planned-{self.name}"}

    async def structured_output(self, *arguments, **options):
        raise NotImplementedError
        yield

    async def stream(self, messages, *arguments, **options):
        plan = json.loads((FOLDER / "plan.json").read_text())[self.name]
        number = said(messages)
        answer = plan[number]
        if isinstance(answer, str):
            answer = answer.replace("{heard}", str(len(messages)))
        yield {"messageStart": {"role": "assistant"}}
        calls = [] if isinstance(answer, str) else answer
        if not calls:
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": answer}}}
            yield {"contentBlockStop": {}}
        for place, (name, arguments) in enumerate(calls):
            use = {"toolUseId": f"{self.name}-{number}-{place}", "name": name}
            yield {"contentBlockStart": {"start": {"toolUse": use}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(arguments)}}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if calls else "end_turn"}}
        yield {"metadata": {"usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}}}


def said(messages):
    """The answers since the last input."""
    count = 0
    for message in reversed(messages):
        if message["role"] == "assistant":
            count += 1
        elif not any("toolResult" in block for block in message["content"]):
            break
    return count


def note(line):
    with (FOLDER / "calls.log").open("a") as calls:
        calls.write(line + "\\n")


@tool
def refund(order: int) -> str:
    """Pay the money of an order back."""
    note(f"refund {order}")
    return f"refunded {order}"


@tool
def look_up(order: int) -> str:
    """Look an order up."""
    note(f"look_up {order}")
    if order == 0:
        raise ValueError("no such order")
    return f"order {order} cost 7 euros"


@tool
async def wait() -> str:
    """Wait."""
    note("wait")
    while not (FOLDER / "go").exists():
        await asyncio.sleep(0.01)
    return "waited"


def agent(name, *tools, **settings):
    return Agent(model=Planned(name), name=name, tools=list(tools), callback_handler=None, **settings)


def clerk():
    file = FOLDER / "prompt.txt"
    prompt = file.read_text() if file.exists() else "Be kind."
    return agent("clerk", refund, look_up, wait, system_prompt=prompt)


def shy():
    """Its answer is rewritten at the end, as by a guardrail."""
    made = agent("shy", look_up)
    made.add_hook(hide, AfterInvocationEvent)
    return made


def hide(event):
    event.agent.messages[-1]["content"] = [{"text": "hidden"}]
    event.result.message["content"] = [{"text": "hidden"}]


def chief():
    return agent("chief", agent("helper", refund, look_up).as_tool(), look_up)


def line():
    builder = GraphBuilder()
    builder.add_node(agent("first", look_up), "first")
    builder.add_node(agent("second", refund), "second")
    builder.add_edge("first", "second")
    builder.set_entry_point("first")
    builder.set_execution_timeout(60)
    return builder.build()


def crew():
    return Swarm([agent("ann", look_up), agent("bob", refund)])


async def generator(input):
    yield "words"
'''
CONFIG = "".join(
    f'[agents.{name}]\nfactory = "agents:{name}"\n'
    for name in ("clerk", "chief", "line", "crew", "shy", "generator")
)

Plan = dict[str, list[Any]]


class ReplayServer:
    """A server with these agents."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.folder = server.folder

    @property
    def url(self) -> str:
        return str(self.server.http.base_url)

    def plan(self, **plan: list[Any]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def run(self, agent: str, input: str = "hi", **body: Any) -> str:
        """Run an agent to its end, and forget which tools it called; returns the run's id."""
        run_id = self.server.begin(agent, input, **body)
        self.server.ended(run_id)
        self.calls()
        return run_id

    def calls(self) -> list[str]:
        """The calls of real tools since the last look."""
        log = self.folder / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@contextmanager
def replay_server(folder: Path, config: str = "", **options: Any) -> Iterator[ReplayServer]:
    with serving(folder, CONFIG + config, AGENTS, **options) as server:
        yield ReplayServer(server)
