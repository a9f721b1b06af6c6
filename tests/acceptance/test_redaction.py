"""Text that a guardrail or a hook redacts is in no later read, on any surface, nor in the database (G3)."""

import json
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import pytest
from sqlalchemy import MetaData, create_engine, select

from tests.cli.test_export import Receiver, receiver
from tests.kit.command_line import call_command
from tests.kit.server import ServerProcess, until
from tests.kit.slow import shared_out, slow
from tests.servers.databases import KINDS, empty_database

__all__ = ["receiver"]

SECRET = "hunter2"
AGENTS = """
import asyncio
import json
from pathlib import Path
from typing import Any

from strands import Agent, tool
from strands.hooks import AfterInvocationEvent, AfterModelCallEvent, MessageAddedEvent
from strands.models import Model

HERE = Path(__file__).parent
SECRET = "hunter2"
USAGE = {"metadata": {"usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}}}
REDACT = {"redactContent": {"redactAssistantContentMessage": "[cut]"}}


class Script(Model):
    '''Plays a turn for each call; the last one again and again.'''

    def __init__(self, *turns, **config):
        self.turns, self.calls, self.config = turns, 0, {"model_id": "script", **config}

    def update_config(self, **config):
        self.config.update(config)

    def get_config(self):
        return self.config

    async def structured_output(self, *args, **kwargs):
        raise NotImplementedError
        yield

    async def stream(self, messages, *args, **kwargs):
        turn = self.turns[min(self.calls, len(self.turns) - 1)]
        self.calls += 1
        for chunk in turn:
            yield chunk


def text(*words):
    yield {"contentBlockStart": {"start": {}}}
    for word in words:
        yield {"contentBlockDelta": {"delta": {"text": word}}}
    yield {"contentBlockStop": {}}


def call(name, arguments):
    yield {"contentBlockStart": {"start": {"toolUse": {"toolUseId": "call_0", "name": name}}}}
    yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(arguments)}}}}
    yield {"contentBlockStop": {}}


def said(*parts, stop="end_turn", redact=False):
    chunks = [{"messageStart": {"role": "assistant"}}]
    for part in parts:
        chunks += part
    return [*chunks, {"messageStop": {"stopReason": stop}}, *([REDACT] if redact else []), USAGE]


SAYS = said(text("The word ", "is hunter", "2."))
CUT = said(text("The word ", "is hunter", "2."), redact=True)
CALLS = said(text("It is hunter2; I look."), call("look", {"word": "a"}), stop="tool_use")
DONE = said(text("Done."))


@tool
def look(word: str) -> str:
    '''Look a word up.

    Args:
        word: The word.
    '''
    return f"seen {word}"


def agent(*turns, name="agent", tools=()):
    model = Script(*turns, guardrail_redact_output=any(REDACT in turn for turn in turns))
    return Agent(name=name, model=model, tools=[*tools], callback_handler=None)


def clean(message):
    for block in message["content"]:
        if SECRET in block.get("text", ""):
            block["text"] = "[cut]"


def guardrail():
    return agent(CUT)


def inner():
    '''Its guardrail cuts the answer of an agent as a tool.'''
    clerk = agent(CUT, name="clerk").as_tool(name="clerk", description="A clerk.")
    return agent(said(call("clerk", {"input": "go"}), stop="tool_use"), DONE, tools=[clerk])


def in_code():
    '''A tool's code calls the agent.'''
    @tool
    async def ask() -> str:
        '''Ask.'''
        return str(await agent(CUT, name="clerk").invoke_async("go"))

    return agent(said(call("ask", {}), stop="tool_use"), DONE, tools=[ask])


def hooked():
    '''A hook cuts a message that calls a tool, before the next model call.'''
    made = agent(CALLS, DONE, tools=[look])
    made.add_hook(lambda event: clean(event.message), MessageAddedEvent)
    return made


def after_call():
    made = agent(CALLS, DONE, tools=[look])
    made.add_hook(lambda event: clean(event.stop_response.message), AfterModelCallEvent)
    return made


def late():
    '''A hook cuts the answer when the agent ends, and gives it another turn.'''
    made = agent(SAYS, DONE)

    def end(event):
        clean(event.result.message)
        event.resume = "And now?" if made.model.calls == 1 else None

    made.add_hook(end, AfterInvocationEvent)
    return made


async def hold():
    (HERE / "held").touch()
    while not (HERE / "go").exists():
        await asyncio.sleep(0.01)


def slow():
    '''A hook cuts the answer, and takes its time.'''
    made = agent(SAYS)

    async def end(event):
        await hold()
        clean(event.result.message)

    made.add_hook(end, AfterInvocationEvent)
    return made


def marked():
    '''Its requests hold copies of its messages, with a mark of a provider's cache.'''
    made = agent(CALLS, SAYS, tools=[look])

    async def mark(context, call):
        messages = [{**each, "content": [*each["content"], {"cachePoint": {"type": "default"}}]}
                    for each in context.messages]
        async for event in call(context.replace(messages=messages)):
            yield event

    from strands.middleware import InvokeModelStage
    made.add_middleware(InvokeModelStage, mark)
    made.add_hook(lambda event: clean(event.message), MessageAddedEvent)
    return made
"""
NAMES = ["guardrail", "inner", "in_code", "hooked", "after_call", "late", "marked"]
CONFIG = "".join(
    f'[agents.{name}]\nfactory = "agents:{name}"\nmemory = "session"\n' for name in (*NAMES, "slow")
)


@pytest.fixture(scope="module", params=["sqlite", *map(slow, KINDS)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with empty_database(request.param, tmp_path_factory.mktemp("database")) as url:
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, url: str) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with closing(ServerProcess(folder, CONFIG, AGENTS, database_url=url)) as server:
        server.start()
        until(lambda: server.http.get("/audit/tools").is_success, "the projections are built")
        yield server


def stored(url: str) -> str:
    """Everything in the database, views included.

    SQLite's index of words keeps those of deleted rows until it merges its segments, and is left out.
    """
    engine = create_engine(url)
    tables = MetaData()
    tables.reflect(engine, views=True)
    with engine.connect() as connection:
        read = [table for table in tables.tables.values() if not table.name.endswith("_data")]
        rows = [row for table in read for row in connection.execute(select(table))]
    engine.dispose()
    assert rows
    return "".join(
        each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each)
        for row in rows
        for each in row
    )


def reads(server: ServerProcess, run_id: str) -> dict[str, str]:
    """The words of each surface about a run."""
    paths = (
        f"/runs/{run_id}/events?limit=1000", f"/runs/{run_id}/stream", f"/runs/{run_id}/trace",
        f"/runs/{run_id}?include=trace,ops_log", "/runs", f"/runs/{run_id}/requests",
        "/audit/runs", "/audit/events?limit=1000", "/audit/tools", f"/audit/search?text={SECRET}",
    )  # fmt: skip
    found = {path: answer_of(server, path) for path in paths}
    numbers = [each["n"] for each in json.loads(found[f"/runs/{run_id}/requests"])["data"]]
    assert numbers
    for number in numbers:
        found[f"request {number}"] = answer_of(server, f"/runs/{run_id}/requests/{number}")
    return found


def answer_of(server: ServerProcess, path: str) -> str:
    answer = server.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


def leaves(server: ServerProcess, run_ids: list[str], receiver: Receiver) -> dict[str, str]:
    """The words of the command line about runs, printed and sent."""
    first, second = run_ids
    at = ("--url", str(server.http.base_url))
    commands = [
        ("runs", "diff", first, second, "--json", *at), ("runs", "diff", first, second, *at),
        ("export", "otlp", "--since", "2026-01-01T00:00:00Z", "--endpoint", receiver.url, *at),
        ("fixture", second, *at),
    ]  # fmt: skip
    found = {}
    for command in commands:
        done = call_command(*command, folder=server.folder)
        assert done.returncode == 0, done.stderr
        found[" ".join(command)] = done.stdout
    assert receiver.spans()
    return {**found, "sent": str(receiver.spans())}


@pytest.mark.parametrize(("name", "url"), shared_out(NAMES, "guardrail"), indirect=["url"])
def test_redacted_text_is_in_no_later_read(
    server: ServerProcess, url: str, receiver: Receiver, name: str
) -> None:
    session, run_ids = f"session-{name}", []
    for _ in range(2):  # the second run remembers the first
        run_id = server.begin(name, "What is the word?", session_id=session)
        run_ids.append(run_id)
        record = server.ended(run_id)
        assert (record["status"], SECRET in json.dumps(record)) == ("success", False)
        assert any(event["type"] == "llm.redacted" for event in server.events(run_id)), "it was said"
        for place, text in reads(server, run_id).items():
            assert SECRET not in text.replace(f"text={SECRET}", ""), place
        until(lambda: SECRET not in stored(url), "nothing stored has it once the index follows")
    for place, text in leaves(server, run_ids, receiver).items():
        assert SECRET not in text, place
    forked = server.http.post(f"/runs/{run_id}/fork", json={"input": "Go on."}).json()["run_id"]
    assert SECRET not in json.dumps(server.ended(forked)["result"])


@pytest.mark.slow
def test_a_search_finds_nothing_redacted_though_its_index_still_has_the_words(
    server: ServerProcess, url: str
) -> None:
    until(lambda: server.http.get("/audit/search?text=x").status_code == 200, "the index is built")
    run_id = begin_held(server)
    found, database = partial(hits, server, run_id), ("--database-url", url)
    until(found, "the answer is found")
    assert call_command("projections", "pause", "text", *database, folder=server.folder).returncode == 0
    (server.folder / "go").touch()
    server.ended(run_id)
    assert SECRET in stored(url)
    assert found() == []
    assert call_command("projections", "resume", "text", *database, folder=server.folder).returncode == 0
    until(lambda: SECRET not in stored(url), "nothing stored has it once the index follows")


@pytest.mark.slow
def test_a_stop_withholds_an_answer_that_a_hook_has_yet_to_judge(server: ServerProcess, url: str) -> None:
    until(lambda: server.http.get("/audit/search?text=x").status_code == 200, "the index is built")
    run_id = begin_held(server)
    until(lambda: hits(server, run_id), "the answer is found")
    server.stop_run(run_id)
    assert SECRET not in json.dumps(server.events(run_id))
    assert SECRET not in json.dumps(server.record(run_id))
    until(lambda: SECRET not in stored(url), "nothing stored has it once the index follows")


def begin_held(server: ServerProcess) -> str:
    """A run whose hook has the answer, and redacts it once `go` is there."""
    held, go = server.folder / "held", server.folder / "go"
    held.unlink(missing_ok=True)
    go.unlink(missing_ok=True)
    run_id = server.begin("slow", "What is the word?")
    until(held.exists, "the hook has the answer")
    return run_id


def hits(server: ServerProcess, run_id: str) -> list[object]:
    query = f"/audit/search?text={SECRET}&run_id={run_id}"
    data: list[object] = json.loads(answer_of(server, query))["data"]
    return data


@pytest.mark.slow
def test_a_fork_does_not_keep_text_that_is_withheld_after_it_began(server: ServerProcess, url: str) -> None:
    run_id = begin_held(server)
    until(lambda: any(each["type"] == "llm.message" for each in server.events(run_id)), "it is stored")
    answer = server.http.post(f"/runs/{run_id}/fork", json={"input": "Go on."}).json()
    assert answer["forked_at_seq"] == 1
    (server.folder / "go").touch()
    server.ended(run_id)
    server.ended(answer["run_id"])
    until(lambda: SECRET not in stored(url), "nothing stored has it once the index follows")
