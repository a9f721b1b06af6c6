"""Chats under stress, on real servers and with curl: nothing hangs, nothing mixes, nothing is left behind."""

import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kit.chat import BEARER, URL, answer, chunks, headers, lines, said, streaming, text_of, words
from tests.kit.server import DEADLINE_S, ServerProcess, new_client, run_command, serving, until
from tests.kit.slow import mostly_slow
from tests.kit.tools import require

GRACE_S = 1.0
CONFIG = """
[agents.quick]
model = "scripted"

[agents.talker]
model = "scripted"
tokens = 100000
tokens_per_s = 200

[agents.deaf]
factory = "agents:deaf"

[agents.census]
factory = "agents:census"

[agents.remembering]
model = "scripted"
memory = "session"

[agents.recalling]
factory = "agents:recalling"
memory = "session"

[agents.remembering_apart]
model = "scripted"
memory = "session"
isolation = "process"

[agents.recalling_apart]
factory = "agents:recalling"
memory = "session"
isolation = "process"

[agents.asleep_on_the_loop]
factory = "agents:asleep"

[agents.asleep_in_a_thread]
factory = "agents:asleep"
isolation = "thread"

[agents.asleep_apart]
factory = "agents:asleep"
isolation = "process"
"""
AGENTS = '''
import asyncio
import gc
import json
import threading
import time

async def asleep(input):
    yield "just "
    time.sleep(60)

async def deaf(input):
    yield "just "
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def census(input):
    """What the process has of tasks and threads."""
    gc.collect()
    tasks = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]
    yield json.dumps({"tasks": len(tasks), "threads": threading.active_count()})

async def recalling(input, ctx):
    def what(block):
        return block["text"] if "text" in block else len(block["image"]["source"]["bytes"])

    yield json.dumps([[what(block) for block in message["content"]] for message in ctx.memory])
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("chat"), CONFIG, AGENTS, cancel_grace_s=GRACE_S) as server:
        yield server


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session of the test's own."""
    name: str = request.node.name
    return name


# ---- a user's commands, as a shell runs them ----


def shell(server: ServerProcess, folder: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """Run commands that speak to localhost:8000 against this server, in a folder of their own."""
    require("curl")
    script = script.replace("localhost:8000", f"localhost:{server.port}").replace("/tmp/", f"{folder}/")
    return subprocess.run(
        [require("bash"), "-c", script], capture_output=True, text=True, timeout=3 * DEADLINE_S, check=False
    )


def test_a_stream_begins_at_once_and_its_lines_are_clean(server: ServerProcess, tmp_path: Path) -> None:
    before = len(lines(server))
    done = shell(
        server,
        tmp_path,
        """curl -sS -X POST http://localhost:8000/v1/chat/completions \\
          -H "Authorization: Bearer devkey" \\
          -H "Content-Type: application/json" \\
          -d '{"prompt":"Hello","stream":true}' \\
          | head -20""",
    )
    assert '"content":"Hello"' in done.stdout
    assert "data: [DONE]" in done.stdout
    until(lambda: len(lines(server)) >= before + 2, "the stream has ended")
    assert [event for event, _ in lines(server)[before:]] == ["stream_start", "stream_end"]


def test_a_user_who_stops_the_stream_stops_the_run(server: ServerProcess, tmp_path: Path) -> None:
    before = len(lines(server))
    shell(
        server,
        tmp_path,
        """curl -sS -X POST http://localhost:8000/v1/chat/completions \\
          -H "Authorization: Bearer devkey" \\
          -d '{"prompt":"Write a very long poem","stream":true}' > /dev/null &
        PID=$!
        sleep 2 && kill $PID""",
    )
    until(lambda: len(lines(server)) >= before + 3, "the stream has ended")
    found = lines(server)[before:]
    assert [event for event, _ in found] == ["stream_start", "stream_cancelled", "stream_end"]
    assert found[1][1]["reason"] == "client_disconnect"
    assert server.ended(found[0][1]["trace"])["reason"] == "client_disconnect"


def test_a_second_prompt_of_a_session_gets_its_answer_and_ends_the_first(
    server: ServerProcess, tmp_path: Path
) -> None:
    done = shell(
        server,
        tmp_path,
        """SESSION_ID="test-session-$(date +%s)"
        curl -sS -X POST http://localhost:8000/v1/chat/completions \\
          -H "Authorization: Bearer devkey" \\
          -H "X-Session-Id: $SESSION_ID" \\
          -H "Content-Type: application/json" \\
          -d '{"prompt":"Write a 10 paragraph essay","stream":true}' > /tmp/a.txt &
        A_PID=$!
        sleep 0.1
        curl -sS -X POST http://localhost:8000/v1/chat/completions \\
          -H "Authorization: Bearer devkey" \\
          -H "X-Session-Id: $SESSION_ID" \\
          -H "Content-Type: application/json" \\
          -d '{"prompt":"What is 2+2?","stream":true}' > /tmp/b.txt
        wait $A_PID 2>/dev/null
        echo $SESSION_ID""",
    )
    session = done.stdout.strip()
    first, second = (tmp_path / name for name in ("a.txt", "b.txt"))
    assert '"code":"superseded"' in first.read_text().splitlines()[-2]
    assert '"content":"4"' in second.read_text()
    assert second.read_text().endswith("data: [DONE]\n\n")
    until(lambda: words(server, session=session).count("stream_end") == 2, "both have ended")
    a, b = dict.fromkeys(fields["trace"] for _, fields in lines(server, session=session))
    assert words(server, trace=a) == [
        "stream_start", "stream_cancelled", "prev_stream_finished_cleanly", "stream_end",
    ]  # fmt: skip
    assert lines(server, trace=a)[1][1]["reason"] == "superseded"
    assert words(server, trace=b) == ["stream_start", "stream_end"]
    assert server.record(b)["started_at"] >= server.record(a)["completed_at"]


def test_rapid_requests_all_end_and_delay_no_other(server: ServerProcess, tmp_path: Path) -> None:
    begun = time.monotonic()
    shell(
        server,
        tmp_path,
        """for i in {1..5}; do
          curl -sS -X POST http://localhost:8000/v1/chat/completions \\
            -H "Authorization: Bearer devkey" \\
            -H "Content-Type: application/json" \\
            -d "{\\"prompt\\":\\"Prompt $i\\",\\"stream\\":true}" \\
            --max-time 3 \\
            > /tmp/resp_$i.txt &
          sleep 0.05
        done
        wait""",
    )
    assert time.monotonic() - begun < DEADLINE_S
    for number in range(1, 6):
        response = (tmp_path / f"resp_{number}.txt").read_text()
        assert f'"content":"{number}"' in response
        assert response.endswith("data: [DONE]\n\n")


def test_two_sessions_do_not_interfere(server: ServerProcess, tmp_path: Path) -> None:
    shell(
        server,
        tmp_path,
        """SESSION1="session-1"
        SESSION2="session-2"
        curl -sS -X POST http://localhost:8000/v1/chat/completions \\
          -H "X-Session-Id: $SESSION1" \\
          -H "Content-Type: application/json" \\
          -d '{"prompt":"Session 1 Prompt A","stream":true}' > /tmp/1a.txt &
        curl -sS -X POST http://localhost:8000/v1/chat/completions \\
          -H "X-Session-Id: $SESSION2" \\
          -H "Content-Type: application/json" \\
          -d '{"prompt":"Session 2 Prompt A","stream":true}' > /tmp/2a.txt &
        sleep 0.1
        curl -sS -X POST http://localhost:8000/v1/chat/completions \\
          -H "X-Session-Id: $SESSION1" \\
          -H "Content-Type: application/json" \\
          -d '{"prompt":"Session 1 Prompt B","stream":true}' > /tmp/1b.txt
        wait""",
    )
    for name in ("2a.txt", "1b.txt"):
        response = (tmp_path / name).read_text()
        assert response.endswith("data: [DONE]\n\n")
        assert '"code":"superseded"' not in response
    first = (tmp_path / "1a.txt").read_text()  # which may have ended by itself before the second began
    assert '"code":"superseded"' in first or first.endswith("data: [DONE]\n\n")
    assert "1" not in "".join(contents(tmp_path / "2a.txt"))


def contents(path: Path) -> list[str]:
    """The text of each chunk that curl has written."""
    found = [
        json.loads(line.removeprefix("data: ")) for line in path.read_text().splitlines() if "data: {" in line
    ]
    return said([(0, chunk) for chunk in found])


# ---- agents that are stuck, servers that die or stop ----


@pytest.mark.parametrize(
    "agent", mostly_slow(["deaf", "asleep_on_the_loop", "asleep_in_a_thread", "asleep_apart"], "deaf")
)
def test_a_session_whose_agent_is_stuck_answers_after_the_grace_period(
    server: ServerProcess, session: str, agent: str
) -> None:
    with ThreadPoolExecutor(1) as pool, streaming(server, "hi", session, model=agent) as older:
        found = chunks(older)
        until(lambda: said([next(found)]), "it has said a word")
        begun = time.monotonic()
        newer = pool.submit(answer, server, "What is 2+2?", session, model="quick")
        assert text_of(newer.result(DEADLINE_S)) == "4"
        assert GRACE_S / 2 < time.monotonic() - begun < GRACE_S + 5
        assert [chunk["error"]["code"] for _, chunk in found] == ["superseded"]
        run_id = older.headers["x-run-id"]
    until(lambda: "stream_end" in words(server, trace=run_id), "the stream has ended")
    assert words(server, trace=run_id) == [
        "stream_start", "stream_cancelled", "prev_stream_forced", "stream_end",
    ]  # fmt: skip


def test_a_stream_that_a_stopping_server_cuts_says_so_and_can_be_resumed(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(CONFIG, AGENTS, drain_s=0)
    with streaming(server, "Count from 1 to 60") as found:
        run_id, seen = found.headers["x-run-id"], []
        parts = chunks(found)
        while len(said(seen)) < 3:
            seen.append(next(parts))
        server.terminate()
        seen += parts
        last = max(seq for seq, _ in seen)
    assert seen[-1][1]["error"]["code"] == "server_stopping"
    server.wait()
    server.start()
    with server.stream(run_id, after=last, format="openai") as rest:
        resumed = list(chunks(rest))
    assert resumed[-1] == (0, "[DONE]")
    again = [chunk["discard_after_seq"] for _, chunk in resumed[:-1] if "discard_after_seq" in chunk]
    assert again == [2], "a resumed run says again what came after its start"
    assert "".join(said(resumed)).endswith("59 60")


def test_after_a_kill_the_session_is_free_when_its_run_has_ended(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(CONFIG, AGENTS, cancel_grace_s=GRACE_S)
    with streaming(server, "hi", "s", model="talker") as found:
        run_id, parts = found.headers["x-run-id"], chunks(found)
        next(parts)
        server.kill()
        with pytest.raises(httpx.TransportError):
            list(parts)
    server.start()
    assert text_of(answer(server, "What is 2+2?", "s", model="quick")) == "4"
    assert server.ended(run_id)["reason"] == "superseded"


@pytest.mark.slow
def test_nothing_grows_with_the_chats_with_and_without_supersession(server: ServerProcess) -> None:
    chat(server, 100)
    before = census(server)
    chat(server, 600)
    after = census(server)
    assert after["tasks"] <= before["tasks"]
    assert after["threads"] <= before["threads"]
    assert after["resident_kb"] - before["resident_kb"] < 16 << 10


def chat(server: ServerProcess, count: int) -> None:
    """So many requests by eight clients: half of them without a session, half superseding each other."""
    url = str(server.http.base_url)
    numbers = iter(range(count))
    lock, failures = threading.Lock(), []

    def client(seed: int) -> None:
        dice = random.Random(seed)
        with new_client(url) as http:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                session = f"crowd-{dice.randrange(2)}" if number % 2 else None
                body = {"prompt": "Count from 1 to 5", "stream": dice.random() < 0.5, "model": "quick"}
                found = http.post(URL, json=body, headers=headers(session))
                if found.status_code not in ((200, 409) if session else (200,)):
                    failures.append(found.text)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10 * DEADLINE_S)
        assert not thread.is_alive()
    assert not failures


def census(server: ServerProcess) -> dict[str, int]:
    """The threads, tasks and objects of the server's process after all runs have ended."""
    until(lambda: not server.http.get("/runs", params={"status": "running"}).json()["data"], "all have ended")
    with new_client(str(server.http.base_url)) as http:
        found = http.post(URL, json={"prompt": "?", "model": "census"}, headers=BEARER)
    counted: dict[str, int] = json.loads(text_of(found.json()))
    status = Path(f"/proc/{server.pid}/status").read_text()
    return {**counted, "resident_kb": int(status.split("VmRSS:")[1].split()[0])}


# ---- memory on the native API, and of agents in processes of their own ----


@pytest.mark.parametrize("agent", ["remembering", "remembering_apart"])
def test_an_agent_with_a_memory_begins_with_its_sessions_messages(
    server: ServerProcess, session: str, agent: str
) -> None:
    def heard(agent: str, input: str) -> Any:
        return server.ended(server.begin(agent, input, session_id=session))["usage"]["input_tokens"]

    assert heard(agent, "one two three") == 3
    assert heard("quick", "four") == 1
    assert heard(agent, "five") == 3 + 3 + 1 + 1 + 1


def test_an_agent_in_a_process_of_its_own_answers_chats_and_goes_on_with_them(
    server: ServerProcess, session: str
) -> None:
    with streaming(server, "Count from 1 to 3", session, model="remembering_apart") as first:
        found = list(chunks(first))
    assert said(found) == ["1 ", "2 ", "3"]
    assert found[-1] == (0, "[DONE]")
    second = answer(server, "four", session, model="remembering_apart")
    assert second["usage"]["prompt_tokens"] == 5 + 3 + 1


def test_images_of_the_conversation_reach_a_process(server: ServerProcess, session: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello there"}, image]}]
    body = {"model": "quick", "messages": messages}
    assert server.http.post(URL, json=body, headers=headers(session)).is_success
    recalled = answer(server, "again", session, model="recalling_apart")
    assert json.loads(text_of(recalled)) == [["hello there", 8], ["hello there"]]


@pytest.mark.parametrize("agent", ["recalling", "recalling_apart"])
def test_a_generator_function_finds_the_conversation_in_its_context(
    server: ServerProcess, session: str, agent: str
) -> None:
    answer(server, "hello there", session, model="quick")
    run_id = server.begin(agent, "again", session_id=session)
    assert json.loads(server.ended(run_id)["result"]["text"]) == [["hello there"], ["hello there"]]


def test_a_memory_does_not_need_the_run_list(server: ServerProcess, session: str) -> None:
    answer(server, "hello there", session, model="quick")
    url = f"sqlite:///{server.database}"
    dropped = run_command("projections", "drop", "runs", "--yes", "--database-url", url, folder=server.folder)
    assert dropped.returncode == 0, dropped.stderr
    run_id = server.begin("recalling", "again", session_id=session)
    assert json.loads(server.ended(run_id)["result"]["text"]) == [["hello there"], ["hello there"]]
