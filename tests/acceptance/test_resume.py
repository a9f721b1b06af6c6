"""A run goes on after its worker was killed: from its messages and the tools that had finished."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import runstore
from tests.kit.frames import Frame, said, seqs
from tests.kit.server import ServerProcess, serving, until

CONFIG = """
[agents.careful]
factory = "agents:careful"

[agents.parallel]
factory = "agents:parallel"

[agents.contained]
factory = "agents:parallel"
isolation = "process"

[agents.again]
factory = "agents:careful"
on_worker_lost = "restart"

[agents.once]
factory = "agents:careful"
on_worker_lost = "fail"

[agents.plain]
factory = "agents:plain"

[agents.family]
factory = "agents:family"

[agents.graph]
factory = "agents:graph"

[agents.swarm]
factory = "agents:swarm"

[agents.paying]
factory = "agents:paying"

[agents.paying-apart]
factory = "agents:paying"
isolation = "process"

[agents.paid]
factory = "agents:paid"

[agents.paid-again]
factory = "agents:paid"
on_worker_lost = "restart"
"""
# A model that calls the tools `first` and `second`, one by one or both at once, and then says what it has
# heard. Each tool notes in its run's file that it was called; what it waits for is a file of the test's.
AGENTS = """
import asyncio
import json
from pathlib import Path

from strands import Agent, tool
from strands.models import Model
from strands.multiagent import GraphBuilder, Swarm

import runstore

def folder(ctx):
    path = Path(ctx.metadata["folder"])
    path.mkdir(exist_ok=True)
    return path

async def wait_for(path):
    while not path.exists():
        await asyncio.sleep(0.005)

def note(ctx, name):
    with (folder(ctx) / "calls").open("a") as calls:
        calls.write(name + "\\n")

def tools(ctx):
    @tool
    async def first() -> str:
        '''The first.'''
        note(ctx, "first")
        return "one"

    @tool
    async def second() -> str:
        '''The second.'''
        note(ctx, "second")
        await wait_for(folder(ctx) / "let-second-return")
        return "two"

    return [first, second]

class Caller(Model):
    def __init__(self, ctx, turns, waits=True):
        self.ctx = ctx
        self.turns = turns
        self.waits = waits

    def update_config(self, **config):
        pass

    def get_config(self):
        return {"model_id": "caller"}

    def structured_output(self, *args, **kwargs):
        raise NotImplementedError

    async def stream(self, messages, tool_specs=None, system_prompt=None, **kwargs):
        answers = [m for m in messages if m["role"] == "assistant"]
        results = [b["toolResult"] for m in messages for b in m["content"] if "toolResult" in b]
        calls = self.turns[len(answers)] if len(answers) < len(self.turns) else []
        heard = [item["text"] for result in results for item in result["content"]]
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        words = ["I ", "call ", *(name + " " for name in calls)] if calls else ["I ", "heard "] + heard
        for word in words:
            yield {"contentBlockDelta": {"delta": {"text": word}}}
        if not calls and self.waits:
            await wait_for(folder(self.ctx) / "let-answer-end")
        yield {"contentBlockStop": {}}
        for name in calls:
            yield {"contentBlockStart": {"start": {"toolUse": {"name": name, "toolUseId": "use-" + name}}}}
            arguments = {"agent_name": "two", "message": "go on"} if "handoff" in name else {"input": "go"}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(arguments)}}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if calls else "end_turn"}}
        yield {"metadata": {"usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
                            "metrics": {"latencyMs": 0}}}

def careful(ctx):
    return Agent(model=Caller(ctx, [["first"], ["second"]]), tools=tools(ctx))

def parallel(ctx):
    return Agent(model=Caller(ctx, [["first", "second"]]), tools=tools(ctx))

def caller(ctx, name, *turns):
    return Agent(model=Caller(ctx, turns, waits=False), tools=tools(ctx), name=name)

def family(ctx):
    left = caller(ctx, "left", ["first"])
    right = caller(ctx, "right", ["second"])
    return Agent(model=Caller(ctx, [["left", "middle"]]), tools=[left, Agent(
        model=Caller(ctx, [["right"]], waits=False), tools=[right], name="middle")])

def graph(ctx):
    builder = GraphBuilder()
    builder.add_node(caller(ctx, "one", ["first"]), "one")
    builder.add_node(caller(ctx, "two", ["second"]), "two")
    builder.add_edge("one", "two")
    return builder.set_execution_timeout(60).build()

def swarm(ctx):
    return Swarm([caller(ctx, "one", ["first", "handoff_to_agent"]), caller(ctx, "two", ["second"])])

def paying(ctx):
    first, second = tools(ctx)
    return Agent(model=Caller(ctx, [["first"], ["second"]]), tools=[first, runstore.at_most_once(second)])

def paid(ctx):
    first, second = tools(ctx)
    return Agent(model=Caller(ctx, [["first"], ["second"]]), tools=[runstore.at_most_once(first), second])

async def plain(input, ctx):
    note(ctx, "plain")
    for word in ("alpha ", "beta "):
        yield word
    await wait_for(folder(ctx) / "let-answer-end")
    yield "gamma"
"""


class LostRun:
    """A run whose worker is killed, with the files that its agent notes in and waits for."""

    def __init__(self, server: ServerProcess, agent: str, name: str) -> None:
        self._server = server
        self._folder: Path = server.folder / name
        self.run_id = server.begin(agent, "go", metadata={"folder": name})

    def let(self, *names: str) -> None:
        self._folder.mkdir(exist_ok=True)
        for name in names:
            (self._folder / f"let-{name}").touch()

    @property
    def calls(self) -> list[str]:
        path = self._folder / "calls"
        return path.read_text().split() if path.exists() else []

    @property
    def frames(self) -> list[Frame]:
        return list(self._server.frames(self.run_id))

    @property
    def record(self) -> dict[str, Any]:
        return self._server.ended(self.run_id)

    @property
    def starts(self) -> list[dict[str, Any]]:
        return [frame.data for frame in self.frames if frame.type == "lifecycle.started"]

    @property
    def kept(self) -> str:
        """The text that a client has that discards what each new attempt says to discard."""
        kept: list[Frame] = []
        for frame in self.frames:
            after = frame.data.get("discard_after_seq") if frame.type == "lifecycle.started" else None
            kept = [earlier for earlier in kept if after is None or earlier.seq <= after]
            kept.append(frame)
        return said(kept)

    @property
    def text(self) -> str:
        """The text that a client shows if it knows where messages end."""
        return runstore.text(runstore.EventRecord(**frame.event) for frame in self.frames)

    def has(self, type: str) -> bool:
        return any(event["type"] == type for event in self._server.events(self.run_id))

    def until_second_runs(self, times: int = 1) -> None:
        """Wait until the first tool has finished and the second runs, for the so-manieth time."""
        until(lambda: self.calls.count("second") == times, "the second tool runs")
        until(lambda: self.has("tool.finished"), "the first has finished")

    def until_it_says(self, word: str) -> None:
        frames = self._server.frames(self.run_id)
        next(frame for frame in frames if frame.type == "llm.token" and frame.data["text"] == word)


LostRuns = dict[str, LostRun]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LostRuns]:
    """Runs whose worker was killed three times: all but `thrice` could end after the first."""
    with serving(tmp_path_factory.mktemp("resume"), CONFIG, AGENTS) as server:
        names = ("careful", "parallel", "contained", "again", "once", "family", "graph", "swarm", "paying")
        names += ("paying-apart", "paid", "paid-again")
        runs = {name: LostRun(server, name, name) for name in names}
        runs["thrice"] = LostRun(server, "careful", "thrice")
        for run in runs.values():
            run.until_second_runs()
        for agent, words in (("careful", "heard "), ("plain", "beta ")):
            runs[words] = run = LostRun(server, agent, words.strip())
            run.let("second-return")
            run.until_it_says(words)
        server.kill()
        server.start()

        runs["undisturbed"] = LostRun(server, "careful", "undisturbed")
        for name in ("graph", "swarm"):
            runs[f"undisturbed {name}"] = LostRun(server, name, f"undisturbed-{name}")
        for name, run in runs.items():
            if name != "thrice":
                run.let("second-return", "answer-end")
                server.ended(run.run_id)
        for crash in (2, 3):
            runs["thrice"].until_second_runs(times=crash)
            server.kill()
            server.start()
        yield runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["careful", "parallel", "contained"])
def test_a_tool_that_had_finished_is_not_called_again(runs: LostRuns, name: str) -> None:
    run = runs[name]
    assert sorted(run.calls) == ["first", "second", "second"]
    assert run.record["status"] == "success"
    assert run.record["result"]["text"] == "I heard onetwo"
    finished = [frame.data["name"] for frame in run.frames if frame.type == "tool.finished"]
    assert finished == ["first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["family", "graph", "swarm"])
def test_only_the_interrupted_work_of_several_agents_is_done_again(runs: LostRuns, name: str) -> None:
    run = runs[name]
    assert sorted(run.calls) == ["first", "second", "second"]
    assert run.record["status"] == "success"
    assert "two" in run.record["result"]["text"]
    messages = [frame.line.partition(b'"data"')[2] for frame in run.frames if frame.type == "llm.message"]
    assert len(messages) == len(set(messages)), "no model is asked again for what it has said"


@pytest.mark.parametrize("name", ["graph", "swarm"])
def test_the_nodes_that_had_their_answer_say_it_again_for_a_client_that_discards(
    runs: LostRuns, name: str
) -> None:
    run, whole = runs[name], runs[f"undisturbed {name}"]
    assert (run.text, run.record["result"]) == (whole.text, whole.record["result"])


@pytest.mark.parametrize("name", ["paying", "paying-apart"])
def test_a_tool_that_may_be_called_once_is_not_called_again(runs: LostRuns, name: str) -> None:
    run = runs[name]
    record = run.record
    assert (record["status"], record["error_code"], record["attempt"]) == ("error", "at_most_once", 1)
    assert "tool 'second'" in record["error"]
    assert "(tool use use-second)" in record["error"]
    assert run.calls == ["first", "second"]


def test_a_tool_that_may_be_called_once_and_has_been_does_not_stop_a_resume(runs: LostRuns) -> None:
    run = runs["paid"]
    assert (run.record["status"], run.calls) == ("success", ["first", "second", "second"])


def test_a_tool_that_may_be_called_once_and_has_been_stops_a_restart(runs: LostRuns) -> None:
    run = runs["paid-again"]
    assert (run.record["error_code"], run.record["attempt"]) == ("at_most_once", 1)
    assert run.calls == ["first", "second"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["careful", "parallel", "heard ", "again"])
def test_a_client_that_discards_text_has_the_text_of_an_undisturbed_run(runs: LostRuns, name: str) -> None:
    expected = "I call first second I heard onetwo" if name == "parallel" else runs["undisturbed"].kept
    assert runs[name].kept == expected


@pytest.mark.parametrize("name", ["careful", "parallel", "contained", "heard ", "again", "beta "])
def test_a_run_goes_on_in_a_second_attempt(runs: LostRuns, name: str) -> None:
    starts = [(start["attempt"], start["reason"]) for start in runs[name].starts]
    assert starts == [(1, "claimed"), (2, "adopted")]
    assert runs[name].record["attempt"] == 2


def test_a_new_attempt_discards_what_came_after_the_last_complete_message(runs: LostRuns) -> None:
    run = runs["heard "]
    restarted = [frame.seq for frame in run.frames if frame.type == "lifecycle.started"][1]
    complete = [f.seq for f in run.frames if f.type == "llm.message" and f.seq < restarted]
    assert run.starts[1]["discard_after_seq"] == complete[-1]
    assert run.calls == ["first", "second"]


def test_restart_starts_over_and_discards_everything(runs: LostRuns) -> None:
    run = runs["again"]
    assert run.calls == ["first", "second"] * 2
    assert run.record["result"]["text"] == "I heard onetwo"
    assert run.starts[1]["discard_after_seq"] == 2, "its first start"


def test_fail_ends_the_run_as_worker_lost_and_calls_nothing(runs: LostRuns) -> None:
    run = runs["once"]
    record = run.record
    assert (record["status"], record["error_code"], record["attempt"]) == ("error", "worker_lost", 1)
    assert run.calls == ["first", "second"]


def test_a_plain_generator_starts_over(runs: LostRuns) -> None:
    run = runs["beta "]
    assert run.record["result"]["text"] == run.kept == "alpha beta gamma"
    assert run.calls == ["plain", "plain"]


def test_the_third_crash_ends_the_run_as_worker_lost(runs: LostRuns) -> None:
    run = runs["thrice"]
    record = run.record
    assert (record["status"], record["error_code"], record["attempt"]) == ("error", "worker_lost", 3)
    assert run.calls == ["first", "second", "second", "second"]
    assert [frame.type for frame in run.frames if frame.type.startswith("lifecycle.")] == [
        "lifecycle.queued", *["lifecycle.started"] * 3, "lifecycle.failed",
    ]  # fmt: skip


def test_a_reader_follows_its_run_through_a_kill(serve: Callable[..., ServerProcess]) -> None:
    server = serve(CONFIG, AGENTS)
    run = LostRun(server, "careful", "run")
    run.until_second_runs()
    frames = server.frames(run.run_id)
    seen = [next(frames) for _ in range(5)]
    server.kill()
    server.start()
    run.let("second-return", "answer-end")
    seen += server.frames(run.run_id, after=seen[-1].seq)
    assert seqs(seen) == list(range(1, len(seen) + 1))
    assert seen[-1].type == "lifecycle.completed"


def test_a_run_that_was_to_stop_when_its_worker_died_is_stopped_and_not_resumed(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(CONFIG, AGENTS, cancel_grace_s=60)
    run = LostRun(server, "careful", "run")
    run.until_second_runs()
    assert server.http.post(f"/runs/{run.run_id}/stop", json={"reason": "enough"}).status_code == 202
    server.kill()
    server.start()
    record = server.ended(run.run_id)
    assert (record["status"], record["reason"]) == ("stopped", "enough")
    assert run.calls == ["first", "second"]


@pytest.mark.slow
def test_runs_that_waited_in_the_queue_start_after_a_kill(serve: Callable[..., ServerProcess]) -> None:
    server = serve(CONFIG, AGENTS, capacity=1)
    first = LostRun(server, "plain", "first")
    waiting = [LostRun(server, "plain", f"waiting-{n}") for n in range(3)]
    server.kill()
    for run in (first, *waiting):
        run.let("answer-end")
    server.start()
    assert {run.record["status"] for run in waiting} == {"success"}
    assert [run.calls for run in waiting] == [["plain"]] * 3
