"""Durable before visible (G1), seen from outside: in the order of the server's system calls.

`kill -9` cannot show a missing fsync, since the kernel keeps what was written; strace can.
"""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from tests.database import make_database
from tests.server import SILENT_AGENT, SILENT_HEAD, ServerProcess
from tests.tools import require

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.quick]
model = "scripted"
"""
CALLS = "fdatasync,fsync,pwrite64,write,writev,sendto,sendmsg"
SYNCS = ("fdatasync", "fsync")
DELAY_S = 0.3

Watch = Callable[..., ServerProcess]


@dataclass
class Call:
    """A system call; `began` and `ended` are lines of the trace."""

    name: str
    text: str
    began: int
    ended: int


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.fixture
def watch(tmp_path: Path, trace: Path) -> Iterator[Watch]:
    """`watch(*options)` starts a server under strace, which follows its threads and names its files."""
    strace = require("strace")
    make_database(tmp_path / "runstore.db")  # so that starting needs no fsync
    server = ServerProcess(tmp_path, CONFIG, SILENT_AGENT)

    def start(*options: str) -> ServerProcess:
        # -D: strace is the child, so that the process that we end is the server
        return server.start([strace, "-D", "-f", "-y", "-s", "10000", "-e", f"trace={CALLS}", "-e", "signal=none",
                             *options, "-o", str(trace)])  # fmt: skip

    yield start
    server.close()


def read_calls(trace: Path) -> list[Call]:
    calls: list[Call] = []
    unfinished: dict[str, Call] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.startswith("<... "):
            unfinished.pop(thread).ended = number
        elif called := re.match(r"(\w+)\(", rest):
            call = Call(called[1], rest, number, number)
            calls.append(call)
            if rest.endswith("<unfinished ...>"):
                unfinished[thread] = call
    return calls


def first(calls: list[Call], where: str, what: str) -> Call:
    """The first call that wrote `what` to a file or a connection."""
    return next(c for c in calls if c.name not in SYNCS and re.match(rf"\w+\(\d+<{where}", c.text) and what in c.text)


def synced_between(calls: list[Call], stored: Call, sent: Call) -> bool:
    return any(c.name in SYNCS and stored.ended < c.began and c.ended < sent.began for c in calls)


DATABASE = r"[^>]*runstore\.db-wal>"
CONNECTION = r"(socket|TCP)"


def test_an_appended_event_is_synced_before_anyone_hears_of_it(watch: Watch, trace: Path) -> None:
    server = watch()
    run_id = server.begin_silent()
    frames = server.frames(run_id)
    list(islice(frames, SILENT_HEAD))
    for n in range(10):
        server.note(run_id, f"mark-{n}-")
        next(frames)
    server.terminate()
    server.wait()

    calls = read_calls(trace)
    for n in range(10):
        stored = first(calls, DATABASE, f"mark-{n}-")
        seen = first(calls, CONNECTION, f"mark-{n}-")
        acknowledged = first(calls, CONNECTION, rf"\"last_seq\":{n + SILENT_HEAD + 1}}}")
        assert synced_between(calls, stored, seen)
        assert synced_between(calls, stored, acknowledged)


def test_an_agents_token_is_synced_before_anyone_sees_it(watch: Watch, trace: Path) -> None:
    server = watch()
    words = [f"mark-{n}-" for n in range(30)]
    with server.http.stream("POST", "/agents/quick/stream", json={"input": " ".join(words)}) as answer:
        answer.read()
    server.terminate()
    server.wait()

    calls = read_calls(trace)
    for word in words:
        said = rf"\"text\":\"{word}"
        assert synced_between(calls, first(calls, DATABASE, said), first(calls, CONNECTION, said))


def test_a_started_run_is_synced_before_its_id_is_told(watch: Watch, trace: Path) -> None:
    server = watch()
    run_id = server.begin("silent", "mark-of-the-input")
    server.terminate()
    server.wait()

    calls = read_calls(trace)
    assert synced_between(calls, first(calls, DATABASE, "mark-of-the-input"), first(calls, CONNECTION, run_id))


def test_while_the_disk_is_slow_an_event_is_invisible(watch: Watch) -> None:
    server = watch("-e", f"inject=fdatasync,fsync:delay_enter={int(DELAY_S * 1e6)}")
    run_id = server.begin_silent()
    frames = server.frames(run_id)
    list(islice(frames, SILENT_HEAD))
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as producer:
        acknowledged = producer.submit(lambda: (server.note(run_id), time.monotonic()))
        next(frames)
        assert time.monotonic() - begun >= DELAY_S
        assert acknowledged.result()[1] - begun >= DELAY_S
