"""Runs that ask a person and wait, through real processes (G15)."""

import json
import os
import pty
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from runstore.client import Client, Conflict
from tests.kit.server import PYTHON, ServerProcess, until
from tests.kit.slow import slow

AGENTS = """
import time
from pathlib import Path

from strands import ToolContext, tool

from runstore import Question

DONE = Path(__file__).with_name("done")

@tool(context=True)
def mail(word: str, tool_context: ToolContext) -> str:
    '''Mail something.

    Args:
        word: What.
    '''
    sizes = {"type": "object", "properties": {"size": {"enum": ["S", "M"]}}, "required": ["size"]}
    answer = tool_context.interrupt("size", reason=Question("Which size?", schema=sizes))
    with DONE.open("a") as done:
        done.write(f"mailed {answer['size']}\\n")
    return f"size {answer['size']}"

@tool
def pay(word: str) -> str:
    '''Pay something.

    Args:
        word: What.
    '''
    with DONE.open("a") as done:
        done.write(f"paid {word}\\n")
    return f"paid {word}"

@tool(context=True)
def expire(word: str, tool_context: ToolContext) -> str:
    '''Ask, with little time.

    Args:
        word: The default answer; without it there is none.
    '''
    default = None if word == "none" else word
    return "got " + tool_context.interrupt("x", reason=Question("Well?", expires_s=2, default=default))

def hold():
    DONE.touch()
    while not DONE.with_name("go").exists():
        time.sleep(0.01)

@tool(context=True)
def slow(word: str, tool_context: ToolContext) -> str:
    '''Hold still before the question, or after it.

    Args:
        word: Where.
    '''
    if word == "first":
        hold()
    answer = tool_context.interrupt("size")
    if word == "last":
        hold()
    return str(answer)

async def shop(input, ctx):
    yield "One moment. "
    size = await ctx.ask("Which size?", schema={"enum": ["S", "M"]})
    yield f"{input} in {size}."

async def ears(input, ctx):
    await ctx.ask("Ready?")
    yield f"{await ctx.added()} {await ctx.added()}"

async def odd(input, ctx):
    yield str(await ctx.ask("Well?", schema={"type": 5}))

async def outside(input, ctx):
    yield str(await ctx.ask("Well?", schema={"enum": ["S", "M"]}, expires_s=60, default="XL"))
"""
CONFIG = """
[server]
lease_s = 2

[hierarchies.models.fast]
model = "scripted"

[hierarchies.tools]
pay = "agents:pay"

[agents.clerk]
model = "scripted"
tools = ["agents:mail"]

[agents.alone]
model = "scripted"
tools = ["agents:mail"]
isolation = "process"

[agents.payer]
model = "scripted"
tools = ["agents:pay"]
approve = ["pay"]

[agents.payer_alone]
model = "scripted"
tools = ["agents:pay"]
approve = ["pay"]
isolation = "process"

[agents.slow]
model = "scripted"
tools = ["agents:slow"]

[agents.late]
model = "scripted"
tools = ["agents:expire"]

[agents.shop]
factory = "agents:shop"

[agents.shop_alone]
factory = "agents:shop"
isolation = "process"

[agents.ears]
factory = "agents:ears"

[agents.ears_alone]
factory = "agents:ears"
isolation = "process"

[agents.odd]
factory = "agents:odd"

[agents.outside]
factory = "agents:outside"

[agents.plain]
model = "scripted"
tokens = 2
"""
SMALL = {"size": "S"}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """The actions of the tools."""
    return tmp_path / "done"


ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # what no database decides


def waiting(server: ServerProcess, agent: str = "clerk", **options: Any) -> tuple[str, str]:
    """A run that waits, and its open request."""
    run_id = server.begin(agent, **{"input": "shirts", **options})
    [pending] = server.waiting(run_id)["pending_inputs"]
    return run_id, pending["request_id"]


def answer(server: ServerProcess, run_id: str, request_id: str, answer: Any) -> httpx.Response:
    return server.http.post(f"/runs/{run_id}/inputs/{request_id}", json={"answer": answer})


def count(server: ServerProcess, run_id: str, type: str) -> int:
    return sum(event["type"] == type for event in server.events(run_id))


@pytest.mark.parametrize("agent", ["clerk", "alone"])
def test_a_run_waits_for_an_answer_and_goes_on(worker: ServerProcess, done: Path, agent: str) -> None:
    run_id, request_id = waiting(worker, agent)
    [pending] = worker.record(run_id)["pending_inputs"]
    assert (pending["prompt"], pending["tool"]) == ("Which size?", "mail")
    assert not done.exists()
    answered = answer(worker, run_id, request_id, SMALL)
    assert answered.status_code == 200, answered.text
    assert worker.ended(run_id)["status"] == "success"
    assert done.read_text() == "mailed S\n"
    started = [event["data"] for event in worker.events(run_id) if event["type"] == "lifecycle.started"]
    assert [each["reason"] for each in started] == ["claimed", "input"]


def test_an_answer_is_checked_and_given_once(worker: ServerProcess, done: Path) -> None:
    run_id, request_id = waiting(worker)
    wrong = answer(worker, run_id, request_id, {"size": "XL"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_answer")
    assert wrong.json()["error"]["field"] == "$.answer.size"
    assert answer(worker, run_id, request_id, None).status_code == 400
    assert answer(worker, run_id, "9.9", SMALL).status_code == 404
    assert answer(worker, run_id, request_id, SMALL).status_code == 200
    assert answer(worker, run_id, request_id, SMALL).status_code == 200, "the same answer again"
    other = answer(worker, run_id, request_id, {"size": "M"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "input_closed")
    assert worker.ended(run_id)["status"] == "success"
    assert count(worker, run_id, "input.given") == 1
    assert done.read_text() == "mailed S\n"


def test_the_client_answers(worker: ServerProcess) -> None:
    run_id, _ = waiting(worker)
    with Client(str(worker.http.base_url)) as client:
        [asked] = client.inputs(run_id)
        assert (asked.status, asked.prompt, asked.answer) == ("open", "Which size?", None)
        assert client.answer(run_id, asked.request_id, SMALL).status in ("queued", "running", "success")
        assert client.get(run_id, wait=60).status == "success"
        [asked] = client.inputs(run_id)
        assert (asked.status, asked.answer, asked.answered_by) == ("answered", SMALL, "local")
        with pytest.raises(Conflict):
            client.answer(run_id, asked.request_id, {"size": "M"})


def test_a_waiting_run_survives_the_death_of_all_processes(worker: ServerProcess, done: Path) -> None:
    run_id, request_id = waiting(worker)
    worker.kill()
    worker.start()
    assert worker.record(run_id)["status"] == "waiting"
    assert answer(worker, run_id, request_id, SMALL).status_code == 200
    assert worker.ended(run_id)["status"] == "success"
    assert done.read_text() == "mailed S\n"
    assert count(worker, run_id, "input.requested") == 1


def test_an_answer_that_comes_while_no_worker_runs_is_kept(
    worker: ServerProcess, front: ServerProcess, done: Path
) -> None:
    run_id, request_id = waiting(front)
    worker.kill()
    assert answer(front, run_id, request_id, SMALL).status_code == 200
    assert front.record(run_id)["status"] == "queued"
    worker.start()
    assert worker.ended(run_id)["status"] == "success"
    assert done.read_text() == "mailed S\n"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the question", "with the answer"])
def test_a_worker_that_dies_with_the_answer_asks_nothing_again(
    worker: ServerProcess, front: ServerProcess, done: Path, moment: str
) -> None:
    """Killed in the tool, which holds still: before its question, or when it has the answer."""
    asks_first = moment == "with the answer"
    run_id = front.begin("slow", "last" if asks_first else "first")
    if asks_first:
        front.waiting(run_id)
        assert answer(front, run_id, "1.1", SMALL).status_code == 200
    until(done.exists, "the tool holds still")
    worker.kill()
    done.unlink()
    (done.parent / "go").touch()
    worker.start()
    if not asks_first:
        front.waiting(run_id)
        assert answer(front, run_id, "2.1", SMALL).status_code == 200
    assert worker.ended(run_id)["status"] == "success"
    assert count(front, run_id, "input.requested") == 1
    assert count(front, run_id, "input.given") == 1


def test_of_two_answers_through_two_processes_one_counts(worker: ServerProcess, front: ServerProcess) -> None:
    for _ in range(5):
        run_id, request_id = waiting(worker)
        with ThreadPoolExecutor(2) as threads:
            given = [
                threads.submit(answer, server, run_id, request_id, {"size": size})
                for server, size in ((worker, "S"), (front, "M"))
            ]
        assert sorted(each.result().status_code for each in given) == [200, 409]
        assert worker.ended(run_id)["status"] == "success"
        assert count(worker, run_id, "input.given") == 1


def test_a_waiting_run_is_stopped_through_any_process(worker: ServerProcess, front: ServerProcess) -> None:
    run_id, request_id = waiting(worker)
    worker.kill()
    assert front.stop_run(run_id)["status"] == "stopped"
    assert answer(front, run_id, request_id, SMALL).json()["error"]["code"] == "input_closed"
    [asked] = front.http.get(f"/runs/{run_id}/inputs").json()["data"]
    assert asked["status"] == "closed"


def test_a_waiting_run_is_the_active_one_of_its_session(worker: ServerProcess) -> None:
    run_id, request_id = waiting(worker, session_id="s")
    body = {"input": "hi", "session_id": "s"}
    refused = worker.http.post("/agents/plain/start", json={**body, "multitask_strategy": "reject"})
    assert refused.status_code == 409
    assert run_id in refused.text
    queued = worker.begin("plain", session_id="s")
    assert worker.record(queued)["status"] == "queued"
    answer(worker, run_id, request_id, SMALL)
    assert worker.ended(queued)["status"] == "success"
    run_id, _ = waiting(worker, session_id="s")
    newer = worker.begin("plain", session_id="s", multitask_strategy="interrupt")
    assert worker.ended(run_id)["superseded_by"] == newer
    assert worker.ended(newer)["status"] == "success"


def test_runs_are_listed_while_they_wait(worker: ServerProcess) -> None:
    run_id, _ = waiting(worker)
    [listed] = worker.http.get("/runs", params={"status": "waiting"}).json()["data"]
    assert listed["run_id"] == run_id
    assert len(listed["pending_inputs"]) == 1


@pytest.mark.parametrize("agent", ["payer", "payer_alone"])
def test_a_tool_of_the_configuration_runs_after_its_approval(
    worker: ServerProcess, done: Path, agent: str
) -> None:
    run_id, request_id = waiting(worker, agent)
    [asked] = worker.http.get(f"/runs/{run_id}/inputs").json()["data"]
    assert (asked["kind"], asked["tool"], asked["input"]) == ("approval", "pay", {"word": "shirts"})
    wrong = answer(worker, run_id, request_id, {"approve": True, "input": {"word": 5}})
    assert wrong.json()["error"]["field"] == "$.answer.input.word"
    edited = {"approve": True, "input": {"word": "socks"}}
    assert answer(worker, run_id, request_id, edited).status_code == 200
    assert worker.ended(run_id)["status"] == "success"
    assert done.read_text() == "paid socks\n"
    [given] = [event["data"] for event in worker.events(run_id) if event["type"] == "input.given"]
    assert (given["answer"], given["shown"]) == (edited, {"word": "shirts"})


@pytest.mark.parametrize("agent", ["payer", slow("payer_alone")])
def test_a_rejected_call_does_not_run(worker: ServerProcess, done: Path, agent: str) -> None:
    run_id, request_id = waiting(worker, agent)
    assert answer(worker, run_id, request_id, {"approve": False, "reason": "no"}).status_code == 200
    assert worker.ended(run_id)["status"] == "success"
    assert not done.exists()


def test_a_hierarchy_names_tools_that_need_approval(worker: ServerProcess, done: Path) -> None:
    clerk = {"name": "clerk", "model": "fast", "system_prompt": "Pay.", "tools": ["pay"]}
    team = {"name": "office", "model": "fast", "supervisor_prompt": "Lead.", "workers": [clerk]}
    hierarchy = {"name": "h", "model": "fast", "global_prompt": "Lead.", "teams": [team], "approve": ["pay"]}
    place = "/api/executor/v1"
    wrong = worker.http.post(f"{place}/hierarchies/create", json={**hierarchy, "approve": ["fly"]})
    assert wrong.json()["error"]["field"] == "$.approve[0]"
    created = worker.http.post(f"{place}/hierarchies/create", json=hierarchy).json()["data"]
    assert created["approve"] == ["pay"]
    made = created["hierarchy_id"]
    begun = worker.http.post(f"{place}/runs/start", json={"hierarchy_id": made, "task": "rent"})
    run_id = begun.json()["data"]["run_id"]
    worker.waiting(run_id)
    [pending] = worker.record(run_id)["pending_inputs"]
    assert (pending["agent"], pending["kind"]) == ("global/office/clerk", "approval")
    assert not done.exists()
    assert answer(worker, run_id, "1.1", {"approve": True}).status_code == 200
    assert worker.ended(run_id)["status"] == "success"
    assert done.read_text() == "paid rent\n"


def test_a_fork_that_is_asked_for_again_is_the_same_though_its_run_has_gone_on(worker: ServerProcess) -> None:
    run_id, request_id = waiting(worker)
    place, body = f"/runs/{run_id}/fork", {"agent": "plain", "input": "Go on."}
    key = {"Idempotency-Key": f"fork-{run_id}"}
    first = worker.http.post(place, json=body, headers=key).json()
    assert answer(worker, run_id, request_id, SMALL).status_code == 200
    worker.ended(run_id)
    again = worker.http.post(place, json=body, headers=key)
    assert again.status_code == 202, again.text
    assert again.json()["run_id"] == first["run_id"]
    assert again.json()["forked_at_seq"] == first["forked_at_seq"]
    other = worker.http.post(place, json=body).json()
    assert other["forked_at_seq"] > first["forked_at_seq"], "without the key, from where the run is now"
    for changed in ({"input": "Stop."}, {"at": 1}, {"system_prompt": "Be brief."}):
        refused = worker.http.post(place, json={**body, **changed}, headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_conflict")


@pytest.mark.slow
def test_any_process_gives_an_expired_request_its_default_or_fails_its_run(
    worker: ServerProcess, front: ServerProcess
) -> None:
    default, none = [front.begin("late", word) for word in ("blue", "none")]
    until(lambda: {front.record(run_id)["status"] for run_id in (default, none)} == {"waiting"}, "both wait")
    worker.kill()
    assert front.ended(none)["error_code"] == "input_expired"
    until(lambda: count(front, default, "input.given") == 1, "the run has its default answer")
    [given] = [event["data"] for event in front.events(default) if event["type"] == "input.given"]
    assert "by" not in given
    worker.start()
    assert "got blue" in str(worker.ended(default)["result"])


# ---- unasked messages ----


def test_a_message_to_a_waiting_run_reaches_its_model(worker: ServerProcess) -> None:
    run_id, request_id = waiting(worker)
    place = f"/runs/{run_id}/inputs"
    said = worker.http.post(place, json={"content": "Make haste."})
    assert said.status_code == 201, said.text
    assert worker.record(run_id)["status"] == "waiting"
    assert answer(worker, run_id, request_id, SMALL).status_code == 200
    assert worker.ended(run_id)["status"] == "success"
    [replaced] = [event["data"] for event in worker.events(run_id) if event["type"] == "llm.input_replaced"]
    assert replaced["added"] == said.json()["last_seq"]
    assert replaced["messages"][0]["content"][-1] == {"text": "Make haste."}
    assert worker.http.post(place, json={"content": "Too late."}).json()["error"]["code"] == "run_closed"


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ears", slow("ears_alone")])
def test_a_generator_takes_the_added_messages(worker: ServerProcess, agent: str) -> None:
    run_id, request_id = waiting(worker, agent)
    assert runs(worker, "say", run_id, "Hurry.").returncode == 0
    assert answer(worker, run_id, request_id, "ok").status_code == 200
    assert worker.ended(run_id)["result"] == {"text": "['Hurry.'] []"}


# ---- the command line ----


def runs(server: ServerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = str(server.http.base_url)
    return subprocess.run(
        [*PYTHON, "runs", *arguments, "--url", url],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


@pytest.mark.slow
@ON_SQLITE
def test_the_command_line_answers(worker: ServerProcess, done: Path) -> None:
    run_id, request_id = waiting(worker)
    listed = runs(worker, "inputs", run_id)
    assert "Which size?" in listed.stdout
    wrong = runs(worker, "answer", run_id, request_id, "XL")
    assert (wrong.returncode, "invalid_answer" in wrong.stderr) == (2, True)
    assert runs(worker, "answer", run_id, request_id).returncode == 2
    assert runs(worker, "answer", run_id, request_id, '{"size": "S"}').returncode == 0
    assert worker.ended(run_id)["status"] == "success"
    [asked] = map(json.loads, runs(worker, "inputs", run_id, "--json").stdout.splitlines())
    assert (asked["status"], asked["answer"]) == ("answered", SMALL)
    run_id, request_id = waiting(worker, "payer")
    rejected = runs(worker, "answer", run_id, request_id, "--reject", "--reason", "too much")
    assert rejected.returncode == 0, rejected.stderr
    assert worker.ended(run_id)["status"] == "success"
    assert done.read_text() == "mailed S\n"


@pytest.mark.slow
@ON_SQLITE
def test_tail_asks_at_a_terminal(worker: ServerProcess, done: Path) -> None:
    run_id, _ = waiting(worker)
    person, terminal = pty.openpty()
    command = [*PYTHON, "runs", "tail", run_id, "--url", str(worker.http.base_url)]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as tail:
        os.close(terminal)
        seen = ""
        while "Which size?" not in seen:
            seen += os.read(person, 4_096).decode()
        os.write(person, b'{"size": "XL"}\n')
        while seen.count("Which size?") < 2:
            seen += os.read(person, 4_096).decode()
        os.write(person, b'{"size": "M"}\n')
        with suppress(OSError):  # it has ended, and closed the terminal
            while os.read(person, 4_096):
                pass
        assert tail.wait(60) == 0
    os.close(person)
    assert done.read_text() == "mailed M\n"


# ---- the example of the how-to ----

EXAMPLE = Path(__file__).parents[2] / "examples" / "approvals"


@pytest.mark.slow
@pytest.mark.parametrize(("said", "result"), [("y", "paid: 5 euros"), ("n", "not approved")])
def test_the_example_asks_at_a_desk(tmp_path: Path, said: str, result: str) -> None:
    for file in EXAMPLE.glob("*.*"):
        shutil.copy(file, tmp_path)
    with closing(ServerProcess(tmp_path, None, None)) as server:
        server.start()
        run_id, _ = waiting(server, "bank", input="5 euros")
        desk = [sys.executable, str(tmp_path / "desk.py"), str(server.http.base_url)]
        shown = subprocess.run(
            desk, input=f"{said}\n", capture_output=True, text=True, check=True, timeout=60
        )
        assert "May bank call pay? {'order': '5 euros'}" in shown.stdout
        assert result in shown.stdout
        assert server.record(run_id)["status"] == "success"


def test_the_how_to_shows_the_example() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "how-to" / "approvals.md").read_text()
    assert (EXAMPLE / "runstore.toml").read_text() in page
    work = (EXAMPLE / "desk.py").read_text().partition("as client:\n")[2].partition("\n\n\n")[0]
    assert textwrap.dedent(work) in textwrap.dedent(page.partition("as client:\n")[2].partition("```")[0])


# ---- other surfaces and agents ----


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_request_ends_when_its_run_asks_and_the_run_goes_on(
    worker: ServerProcess, stream: bool
) -> None:
    body = {"model": "clerk", "stream": stream, "messages": [{"role": "user", "content": "shirts"}]}
    answered = worker.http.post("/v1/chat/completions", json=body)
    assert '"input_required"' in answered.text
    assert answered.status_code == (200 if stream else 409)
    run_id = answered.headers["X-Run-Id"]
    assert worker.record(run_id)["status"] == "waiting"
    assert answer(worker, run_id, "1.1", SMALL).status_code == 200
    assert worker.ended(run_id)["status"] == "success"


def test_a_stream_stays_open_while_its_run_waits(worker: ServerProcess) -> None:
    run_id = worker.begin("clerk", "shirts")
    types = []
    for frame in worker.frames(run_id):
        types.append(frame.type)
        if frame.type == "input.requested":
            assert answer(worker, run_id, "1.1", SMALL).status_code == 200
    assert types.index("input.requested") + 1 == types.index("input.given")
    assert types[-1] == "lifecycle.completed"


@pytest.mark.parametrize("agent", ["shop", slow("shop_alone")])
def test_a_generator_asks(worker: ServerProcess, agent: str) -> None:
    run_id, request_id = waiting(worker, agent)
    assert answer(worker, run_id, request_id, "S").status_code == 200
    assert worker.ended(run_id)["result"] == {"text": "One moment. shirts in S."}


def test_a_question_with_a_malformed_schema_fails_its_run(worker: ServerProcess) -> None:
    record = worker.ended(worker.begin("odd"))
    assert record["error_code"] == "agent_error"
    assert "is not a JSON Schema" in record["error"]


def test_a_question_whose_default_is_outside_of_its_schema_fails_its_run(worker: ServerProcess) -> None:
    record = worker.ended(worker.begin("outside"))
    assert record["error_code"] == "agent_error"
    assert "the default of the question 'Well?': " in record["error"]


def test_a_ticket_answers_one_run(worker: ServerProcess) -> None:
    run_id, request_id = waiting(worker)
    ticket = worker.http.post(f"/runs/{run_id}/ticket", json={"scope": "answer"}).json()
    [asked] = worker.http.get(ticket["url"]).json()["data"]
    assert asked["request_id"] == request_id
    place = f"/runs/{run_id}/inputs/{request_id}"
    streaming = worker.http.post(f"/runs/{run_id}/ticket").json()["ticket"]
    body = {"answer": SMALL}
    for wrong in (streaming, "x"):
        refused = worker.http.post(
            place, params={"ticket": wrong}, json=body, headers={"Authorization": "Bearer x"}
        )
        assert refused.status_code == 401
    assert worker.http.post(place, params={"ticket": ticket["ticket"]}, json=body).status_code == 200
