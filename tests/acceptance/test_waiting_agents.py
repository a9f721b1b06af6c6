"""Strands agents of every kind ask in real processes, which die while they wait (G15)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstore.client import AsyncClient
from tests.kit.replaying import AGENTS, ReplayServer
from tests.kit.server import ServerProcess, serving, until
from tests.kit.slow import slow

ASKING = """
from strands import ToolContext
from strands.hooks import BeforeToolCallEvent
from strands.middleware import ExecuteToolStage


@tool(context=True)
def order(what: str, tool_context: ToolContext) -> str:
    '''Order something, after a question.

    Args:
        what: What to order.
    '''
    size = tool_context.interrupt("size", reason="Which size?")
    note(f"order {what} in {size}")
    return f"{what} in {size}"


def boss():
    return agent("boss", agent("helper", order, look_up).as_tool(), look_up)


def fan():
    builder = GraphBuilder()
    for name, does in (("first", look_up), ("left", order), ("right", look_up), ("last", look_up)):
        builder.add_node(agent(name, does), name)
    for edge in (("first", "left"), ("first", "right"), ("left", "last"), ("right", "last")):
        builder.add_edge(*edge)
    builder.set_entry_point("first")
    builder.set_execution_timeout(60)
    return builder.build()


def team():
    return Swarm([agent("ann", look_up), agent("bob", order)])


def ask_first(event):
    if event.interrupt("look", reason="Look it up?") != "S":
        event.cancel_tool = "no"


def hooked():
    made = agent("looker", look_up)
    made.add_hook(ask_first, BeforeToolCallEvent)
    return made


async def gate(context, run):
    if context.interrupt("gate", reason="Let it through?").response == "S":
        async for event in run(context):
            yield event


def gated():
    made = agent("looker", look_up)
    made.add_middleware(ExecuteToolStage, gate)
    return made
"""
KINDS_OF_AGENTS = ("boss", "fan", "team", "hooked", "gated")
CONFIG = "[server]\nlease_s = 2\n"
AGENT = '[agents.{name}]\nfactory = "agents:{name}"\nisolation = "{isolation}"\n'
ORDERED = [["order", {"what": "hats"}], ["look_up", {"order": 1}]]
HANDED = [["handoff_to_agent", {"agent_name": "bob", "message": "Order."}]]
ONE, TWO, THREE, FOUR = ([["look_up", {"order": number}]] for number in (2, 3, 4, 5))
PLAN = {
    "boss": [[["helper", {"input": "Hats."}], ["look_up", {"order": 6}]], "All is well."],
    "helper": [ORDERED, "Ordered."],
    "first": [ONE, "Go."], "left": [[["order", {"what": "coats"}]], "Left."],
    "right": [TWO, "Right."], "last": [THREE, "Last."],
    "ann": [FOUR, HANDED, "Bob does."], "bob": [[["order", {"what": "shirts"}]], "Ordered."],
    "looker": [[["look_up", {"order": 7}]], "Looked."],
}  # fmt: skip
ASKS = {"boss": "boss/helper", "fan": "fan/left", "team": "team/bob", "hooked": "hooked", "gated": "gated"}
DONE = Counter(
    ["order hats in S", "order coats in S", "order shirts in S", *(f"look_up {n}" for n in range(1, 7))]
    + 2 * ["look_up 7"]
)


@pytest.fixture(params=["loop", slow("process")])
def server(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    tables = [AGENT.format(name=name, isolation=request.param) for name in KINDS_OF_AGENTS]
    config = CONFIG + "".join(tables)
    with serving(tmp_path, config, AGENTS + ASKING, database_url=url) as server:
        yield server


async def test_every_agent_goes_on_where_it_asked_and_repeats_no_tool(server: ServerProcess) -> None:
    replays = ReplayServer(server)
    replays.plan(**PLAN)
    runs = {name: server.begin(name, "Go.") for name in KINDS_OF_AGENTS}
    until(lambda: {server.record(run)["status"] for run in runs.values()} == {"waiting"}, "all runs wait")
    server.kill()
    server.start()
    async with AsyncClient(str(server.http.base_url)) as client:
        for name, run_id in runs.items():
            [asked] = [each async for each in client.inputs(run_id)]
            assert (asked.agent, asked.status) == (ASKS[name], "open")
            await client.answer(run_id, asked.request_id, "S")
        for run_id in runs.values():
            ended = await client.get(run_id, wait=60)
            assert (ended.status, ended.error) == ("success", None)
            events = [each async for each in client.events(run_id)]
            starts = [each.data["reason"] for each in events if each.type == "lifecycle.started"]
            assert starts == ["claimed", "input"]
    assert Counter(replays.calls()) == DONE
