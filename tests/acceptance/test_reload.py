"""`serve --reload`: new code in force, no run lost, no connection refused; broken code never takes over."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.kit.frames import Frame, said, seqs
from tests.kit.logs import assert_no_traceback
from tests.kit.server import ServerProcess, until
from tests.kit.slow import slow

Serve = Callable[..., ServerProcess]

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.talker]
model = "scripted"
tokens = 2000
tokens_per_s = 20

[agents.more]
model = "scripted"

[agents.own]
factory = "agents:own"
"""
AGENTS = """
import asyncio

async def silent(input):
    await asyncio.Event().wait()
    yield ""

async def own(input):
    for _ in range(100_000):
        yield "old "
        await asyncio.sleep(0.05)
"""


@pytest.fixture
def server(serve: Serve) -> ServerProcess:
    return serve(CONFIG, AGENTS, reload=True)


def edit(server: ServerProcess, old: str, new: str, file: str = "agents.py") -> None:
    path = server.folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def times(server: ServerProcess, event: str) -> int:
    """How often the log says so."""
    return sum(line.split(" ")[0] == event for line in server.log.splitlines())


def wait_for_reload(server: ServerProcess, number: int = 1) -> None:
    until(lambda: times(server, "listening") == 1 + number, f"reload {number} is done")


def followed(server: ServerProcess, run_id: str) -> Iterator[Frame]:
    """The run's frames, by a client that reconnects until the run has ended, and is never refused."""
    last = 0
    for _ in range(100):
        try:
            for frame in server.frames(run_id, after=last):
                last = frame.seq
                yield frame
                if frame.ends:
                    return
        except (httpx.ReadError, httpx.RemoteProtocolError):  # the kept connection was the old server's
            continue
    raise AssertionError("the run did not end")


def starts(frames: list[Frame]) -> list[tuple[int, str]]:
    found = [frame.data for frame in frames if frame.type == "lifecycle.started"]
    return [(started["attempt"], started["reason"]) for started in found]


@pytest.mark.slow
def test_a_run_of_own_code_goes_on_with_the_new_code(server: ServerProcess) -> None:
    stream = followed(server, server.begin("own"))
    frames = [next(frame for frame in stream if frame.type == "llm.token")]
    assert said(frames) == "old "
    edit(server, '100_000):\n        yield "old "', '30):\n        yield "new "')
    frames = [*frames, *stream]
    assert seqs(frames) == list(range(frames[0].seq, frames[-1].seq + 1))
    assert starts(frames) == [(2, "handed_over")]
    assert frames[-1].type == "lifecycle.completed"
    assert frames[-1].data["result"]["text"] == "new " * 30


@pytest.mark.slow
def test_a_run_of_a_model_is_handed_over_and_reaches_its_end(server: ServerProcess) -> None:
    stream = followed(server, server.begin("talker", "on and on"))
    frames = [next(frame for frame in stream if frame.type == "llm.token")]
    edit(server, "tokens_per_s = 20", "tokens_per_s = 2000", "runstore.toml")
    frames = [*frames, *stream]
    assert seqs(frames) == list(range(frames[0].seq, frames[-1].seq + 1))
    assert starts(frames) == [(2, "handed_over")]
    assert frames[-1].type == "lifecycle.completed"


@pytest.mark.slow
def test_a_new_configuration_is_in_force(server: ServerProcess) -> None:
    edit(
        server, "[agents.talker]", '[agents.another]\nmodel = "scripted"\n\n[agents.talker]', "runstore.toml"
    )
    wait_for_reload(server)
    assert server.ended(server.begin("another", "hi"))["status"] == "success"


@pytest.mark.slow
def test_no_connection_is_refused_by_a_reload(server: ServerProcess) -> None:
    server.begin_silent()
    done = threading.Event()
    refused: list[httpx.ConnectError] = []
    answered = count()

    def ask() -> None:
        while not done.is_set():
            try:
                httpx.get(f"http://127.0.0.1:{server.port}/healthz", trust_env=False, timeout=20)
            except httpx.ConnectError as error:
                refused.append(error)
            except httpx.TransportError:  # taken in by the old server as it left
                continue
            next(answered)

    asking = threading.Thread(target=ask)
    asking.start()
    edit(server, "old ", "new ")
    wait_for_reload(server)
    done.set()
    asking.join()
    assert not refused
    assert next(answered) > 0


@pytest.mark.parametrize(
    ("file", "old", "broken", "message"),
    [
        ("agents.py", "import asyncio", "import asyncio(", "SyntaxError"),
        slow("runstore.toml", "tokens = 2000", "token = 2000", "did you mean `tokens`?"),
        slow("agents.py", "import asyncio", "import asyncio, no_such_module", "no_such_module"),
        slow("agents.py", "def own", "def renamed", "own"),
        slow("runstore.toml", "[agents.talker]", "[agents.talker", "runstore.toml"),
    ],
    ids=["syntax error", "wrong field", "missing module", "missing function", "no TOML"],
)
def test_broken_code_is_named_and_the_old_serves_on_until_it_is_mended(
    server: ServerProcess, file: str, old: str, broken: str, message: str
) -> None:
    run_id = server.begin_silent()
    edit(server, old, broken, file)
    until(lambda: times(server, "reload_failed") == 1, "the error is logged")
    assert message in server.log
    assert_no_traceback(server.log)
    assert server.record(run_id)["attempt"] == 1
    edit(server, broken, old, file)
    wait_for_reload(server)
    until(lambda: server.record(run_id)["attempt"] == 2, "the run goes on")
    assert server.stop_run(run_id)["status"] == "stopped"


def test_code_that_is_edited_again_before_it_is_imported_is_no_failure(server: ServerProcess) -> None:
    edit(server, "import asyncio", "import asyncio, time; time.sleep(600)")
    until(lambda: times(server, "reloading") == 1, "the new code is being imported")
    edit(server, ", time; time.sleep(600)", "")
    wait_for_reload(server)
    assert times(server, "reload_failed") == 0


@pytest.mark.slow
def test_a_server_that_starts_with_broken_code_waits_for_it_to_be_mended(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, CONFIG, AGENTS.replace("import asyncio", "import asyncio("), reload=True)
    try:
        server.launch()
        until(lambda: times(server, "reload_failed") == 1, "the error is logged")
        edit(server, "import asyncio(", "import asyncio")
        until(lambda: times(server, "listening") == 1, "it serves")
    finally:
        server.close()


def test_a_wrong_configuration_at_the_first_start_is_exit_code_2(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, "[server]\nprot = 1\n", AGENTS, reload=True)
    try:
        server.launch()
        assert server.wait() == 2
        assert "did you mean `port`?" in server.log
    finally:
        server.close()


@pytest.mark.slow
def test_files_of_a_server_and_its_agents_are_not_a_change_of_the_code(server: ServerProcess) -> None:
    pycache = server.folder / "__pycache__"
    pycache.mkdir(exist_ok=True)
    (pycache / "agents.cpython-311.pyc").write_bytes(b"")
    (pycache / "odd.py").write_text("")
    (server.folder / "notes.txt").write_text("by an agent")
    assert server.ended(server.begin("more", "on and on"))["status"] == "success"
    (server.folder / "runstore.db-journal").write_bytes(b"")
    edit(server, "old ", "new ")  # a change that the watcher can see is reported before this one
    wait_for_reload(server)
    assert times(server, "reloading") == 1
    assert "changed=agents.py" in server.log


@pytest.mark.slow
def test_many_edits_do_not_count_as_crashes(server: ServerProcess) -> None:
    run_id = server.begin_silent()
    for number in range(1, 6):
        edit(server, "import asyncio", f"import asyncio  # {number}")
        wait_for_reload(server, number)
    until(lambda: server.record(run_id)["attempt"] == 6, "the run goes on after each")
    assert server.stop_run(run_id)["status"] == "stopped"


@pytest.mark.slow
def test_a_server_that_died_is_started_again_by_the_next_change(server: ServerProcess) -> None:
    run_id = server.begin_silent()
    os.kill(serving_process(server), signal.SIGKILL)
    until(lambda: times(server, "server_exited") == 1, "its death is logged")
    edit(server, "old ", "new ")
    wait_for_reload(server)
    until(lambda: server.record(run_id)["attempt"] == 2, "the run goes on")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_server_and_its_watcher(server: ServerProcess, number: int) -> None:
    server.begin_silent()
    serving = serving_process(server)
    assert server.process is not None
    server.process.send_signal(number)
    assert server.wait() == 0
    assert times(server, "stopped") == 1
    assert not Path(f"/proc/{serving}").exists()


def test_a_server_whose_watcher_died_leaves_too(server: ServerProcess) -> None:
    server.begin_silent()
    server.kill()
    until(lambda: times(server, "stopped") == 1, "it has handed its run over and left")


def serving_process(server: ServerProcess) -> int:
    """The one process that the watcher has started."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])
