"""Runs are isolated (G5), slow readers cost nothing (G11), and ended runs leave nothing behind."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from runstore.app import Runtime
from runstore.core.new_run import NewRun
from runstore.core.run import Actor
from runstore.http.streaming.frames import native
from runstore.settings import Settings, load_settings
from runstore.store.runs import RunAt
from tests.kit.database import make_database
from tests.kit.frames import Frame, joined, read_frames, said, seqs
from tests.kit.leftovers import assert_nothing_left
from tests.kit.polling import until as until_async
from tests.kit.server import DEADLINE_S, ServerProcess

RUNS = 100
CONFIG = """
[agents.talker]
model = "scripted"
tokens = 60
tokens_per_s = 60

[agents.flood]
factory = "agents:flood"
"""
AGENTS = """
async def flood(input):
    '''Say so many MiB, as fast as they go.'''
    for _ in range(int(input) * 256):
        yield "x" * 4096
"""


async def test_no_stream_of_100_runs_at_once_holds_another_runs_word(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(CONFIG, AGENTS)
    words = [f"word{n:03}" for n in range(RUNS)]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=server.http.base_url, timeout=3 * DEADLINE_S, trust_env=False, limits=limits
    ) as http:

        async def follow(word: str) -> list[Frame]:
            async with http.stream("POST", "/agents/talker/stream", json={"input": word}) as answer:
                return list(read_frames([part async for part in answer.aiter_raw()]))

        streams = await asyncio.gather(*map(follow, words))

    for word, frames in zip(words, streams, strict=True):
        assert seqs(frames) == list(range(1, len(frames) + 1))
        assert len({frame.event["run_id"] for frame in frames}) == 1
        assert said(frames).split() == [word] * 60
        assert not [other for other in words if other != word and other.encode() in joined(frames)]
        assert frames[-1].type == "lifecycle.completed"
    started = max(frames[1].event["at"] for frames in streams)
    ended = min(frames[-1].event["at"] for frames in streams)
    assert started < ended, "they ran at once"


def test_stopping_one_run_stops_no_other(serve: Callable[..., ServerProcess]) -> None:
    server = serve(CONFIG, AGENTS)
    runs = [server.begin("talker", f"word{n}") for n in range(10)]
    server.stop_run(runs[3])
    statuses = [server.ended(run_id)["status"] for run_id in runs]
    assert statuses == ["success"] * 3 + ["stopped"] + ["success"] * 6


# A reader that does not read


def resident_mib(pid: int) -> float:
    """Memory that the process has in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def connect(server: ServerProcess, run_id: str) -> socket.socket:
    """Ask for a run's stream, and read nothing yet."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(DEADLINE_S)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(f"GET /runs/{run_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def read_all(connection: socket.socket) -> Iterator[bytes]:
    """The body of an answer in chunks (RFC 9112, 7.1), to its end."""
    with connection.makefile("rb") as file:
        while file.readline().strip():
            pass
        while size := int(file.readline(), 16):
            yield file.read(size)
            file.readline()


@pytest.mark.slow
def test_readers_that_read_nothing_cost_bounded_memory_and_lose_nothing(
    serve: Callable[..., ServerProcess],
) -> None:
    server = serve(CONFIG, AGENTS)
    server.ended(server.begin("flood", "16"))  # the process has now all the memory that this much text needs
    with ExitStack() as stack:
        before = resident_mib(server.pid)
        run_id = server.begin("flood", "64")
        readers = [stack.enter_context(connect(server, run_id)) for _ in range(5)]
        server.ended(run_id)
        assert resident_mib(server.pid) - before < 32, "not even half of one copy of what they have not read"
        frames = list(read_frames(read_all(readers[0])))
    assert seqs(frames) == list(range(1, server.record(run_id)["last_seq"] + 1))
    assert frames[-1].type == "lifecycle.completed"


# Leftovers


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    make_database(tmp_path / "runstore.db")
    (tmp_path / "runstore.toml").write_text(
        f'[server]\ndatabase_url = "sqlite:///{tmp_path}/runstore.db"\n'
        '[agents.talker]\nmodel = "scripted"\ntokens = 20\n[agents.endless]\nmodel = "scripted"\n'
        "tokens = 100000\ntokens_per_s = 100\n"
    )
    return load_settings(tmp_path / "runstore.toml")


async def have_some_runs(runtime: Runtime) -> None:
    """Runs that end, and runs that are stopped, each with a reader."""

    async def start(agent: str) -> RunAt:
        return await runtime.store.start(NewRun(agent, "hi", user_id="local"))

    async def follow(run_id: str) -> None:
        async for _ in native(runtime.store.tail(run_id, after=0)):
            pass

    stopped = [(await start("endless")).run.run_id for _ in range(5)]
    run_ids = [*stopped, *[(await start("talker")).run.run_id for _ in range(20)]]
    readers = [asyncio.create_task(follow(run_id)) for run_id in run_ids]
    for run_id in stopped:
        await runtime.store.stop(run_id, by=Actor("local"), reason="user")
    await asyncio.gather(*readers)
    await until_async(lambda: runtime.supervisor.running == 0)


@pytest.mark.slow
@pytest.mark.usefixtures("unlogged")
async def test_when_its_runs_have_ended_a_process_has_nothing_left_of_them(settings: Settings) -> None:
    await assert_nothing_left(settings, have_some_runs, rounds=4)
