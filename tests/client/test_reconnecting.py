"""Lines that break, servers that die: a stream has every event once, and a start starts one run."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import runstore
from runstore.client import ServerUnreachable, following
from tests.client.conftest import Connect
from tests.client.test_client import as_sent
from tests.kit.proxy import line_to
from tests.kit.server import SILENT_HEAD, ServerProcess, serving, until
from tests.kit.slow import mostly_slow, slow

CONFIG = """
[agents.talker]
model = "scripted"
tokens = 600
tokens_per_s = 200
"""


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that comes back on the port that it had."""
    with serving(tmp_path, CONFIG, heartbeat_s=0.2, drain_s=0) as server:
        server.options["port"] = server.port
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True], ids=["ended", "reset"])
@pytest.mark.parametrize("first_cut", [slow(0), 1, slow(200), slow(1_000)])
def test_a_line_that_breaks_loses_and_repeats_nothing(
    connect: Connect, server: ServerProcess, closed_run: str, first_cut: int, reset: bool
) -> None:
    cuts = [first_cut, 0, *(300 + 97 * n for n in range(12))]
    with line_to(server.port, cuts, reset=reset) as line:
        events = list(connect(line.url).stream(closed_run))
        assert line.connections > 3
    assert as_sent(events) == server.events(closed_run)


def test_a_live_run_is_followed_over_a_line_that_breaks(connect: Connect, server: ServerProcess) -> None:
    with line_to(server.port, [0, *([900] * 6)]) as line:
        client = connect(line.url)
        run = client.start("quick", "one two three")  # whose answer is lost the first time
        events = list(client.stream(run.run_id))
    assert as_sent(events) == server.events(run.run_id)
    assert runstore.text(events) == "one two three"


def test_a_start_whose_answer_was_lost_starts_one_run(connect: Connect, server: ServerProcess) -> None:
    session = str(uuid4())
    with line_to(server.port, [0, 0, 50]) as line:
        client = connect(line.url)
        run = client.start("quick", "hi", session_id=session)
        assert line.connections == 4
        assert [found.run_id for found in client.list(session_id=session)] == [run.run_id]


def test_a_connection_that_says_nothing_any_more_is_left(
    connect: Connect, server: ServerProcess, closed_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "SILENCE_S", 0.3)
    with line_to(server.port, [700], silent=True) as line:
        events = list(connect(line.url).stream(closed_run))
    assert as_sent(events) == server.events(closed_run)


@pytest.mark.parametrize("how", mostly_slow(["kill -9", "SIGTERM"], "kill -9"))
def test_a_stream_survives_a_restart_of_the_server(
    connect: Connect, own_server: ServerProcess, how: str
) -> None:
    client = connect(str(own_server.http.base_url))
    run = client.start("talker", "on and on")
    events = []
    for event in client.stream(run.run_id):
        events.append(event)
        if event.seq == 50:
            own_server.kill() if how == "kill -9" else own_server.terminate()
            own_server.wait()
            own_server.start()
    assert as_sent(events) == own_server.events(run.run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "lifecycle.completed"
    record = own_server.record(run.run_id)
    assert record["attempt"] == 2
    assert runstore.text(events) == record["result"]["text"], "repeated text is there once"


def test_a_stream_ends_when_its_run_is_deleted(connect: Connect, server: ServerProcess) -> None:
    run_id = server.begin_silent()
    with line_to(server.port, []) as line:
        stream = connect(line.url).stream(run_id)
        assert [next(stream).seq for _ in range(SILENT_HEAD)] == [1, 2, 3]
        server.stop_run(run_id)
        server.http.delete(f"/runs/{run_id}")
        assert [event.type for event in stream] == ["cancel.requested", "lifecycle.cancelled"]


def test_a_server_that_is_away_for_too_long_is_given_up(connect: Connect, own_server: ServerProcess) -> None:
    client = connect(str(own_server.http.base_url), retry_s=0.5)
    stream = client.stream(client.start("talker", "on and on").run_id)
    next(stream)
    own_server.kill()
    with pytest.raises(ServerUnreachable):
        list(stream)
    with pytest.raises(ServerUnreachable):
        client.agents()


def test_calls_wait_for_a_server_that_comes_back(connect: Connect, own_server: ServerProcess) -> None:
    client = connect(str(own_server.http.base_url))
    run = client.start("talker", "hi")
    assert client.get(run.run_id, wait=20).status == "success"
    own_server.kill()
    own_server.launch()  # and do not wait for it
    assert client.get(run.run_id).status == "success"
    until(lambda: "listening" in own_server.log, "the server is up")


def test_an_append_whose_answer_was_lost_is_not_made_again(
    connect: Connect, server: ServerProcess, silent_run: str
) -> None:
    with line_to(server.port, [0]) as line:
        client = connect(line.url)
        with pytest.raises(ServerUnreachable):
            client.append(silent_run, [runstore.Custom("custom.note")])
    until(lambda: server.record(silent_run)["last_seq"] == SILENT_HEAD + 1, "it was stored, once")
