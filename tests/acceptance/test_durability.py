"""Durable before visible (G1), checked from outside by the order of the server's system calls.

`kill -9` cannot show a missing fsync, since the kernel keeps written data; strace can.
"""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from tests.kit.server import SILENT_AGENT, SILENT_HEAD, ServerProcess, until
from tests.kit.tools import require

CONFIG = """
[agents.silent]
factory = "agents:silent"

[agents.quick]
model = "scripted"
"""
CALLS = "fdatasync,fsync,pwrite64,write,writev,sendto,sendmsg"
SYNCS = ("fdatasync", "fsync")
DELAY_S = 0.3


NOTES = [f"note-{n}-" for n in range(10)]
WORDS = [f"word-{n}-" for n in range(30)]
INPUT = "what-the-last-run-was-asked"
DATABASE = r"[^>]*runstore\.db-wal>"
CONNECTION = r"(socket|TCP)"


@dataclass
class Call:
    """A system call; `began` and `ended` are lines of the trace."""

    name: str
    text: str
    began: int
    ended: int


@dataclass
class Story:
    calls: list[Call]
    started: str  # the run that was started last


class Watched:
    """A server under strace, which follows its threads and names its files."""

    def __init__(self, folder: Path) -> None:
        self.server = ServerProcess(folder, CONFIG, SILENT_AGENT, drain_s=0)
        self._trace = folder / "trace"

    def start(self, *options: str) -> ServerProcess:
        strace = [require("strace"), "-f", "-y", "-s", "10000", "-o", str(self._trace)]
        strace += ["-e", f"trace={CALLS}", "-e", "signal=none", "--seccomp-bpf", *options]
        return self.server.start([*strace, "-D"])  # -D: not strace is our child, but the server

    def calls(self) -> list[Call]:
        """End the server; returns the calls that it has made."""
        self.server.terminate()
        assert self.server.wait() == 0
        end = re.compile(rf"^{self.server.pid} +\+\+\+ exited with 0", re.M)
        until(lambda: end.search(self._trace.read_text(errors="replace")), "strace has written all it saw")
        return read_calls(self._trace.read_text(errors="replace"))


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The system calls of a server while a run was started, an agent spoke, and a producer appended."""
    watched = Watched(tmp_path_factory.mktemp("watched"))
    try:
        server = watched.start()
        run_id = server.begin_silent()
        frames = server.frames(run_id)
        list(islice(frames, SILENT_HEAD))
        for note in NOTES:
            server.note(run_id, note)
            next(frames)
        with server.http.stream("POST", "/agents/quick/stream", json={"input": " ".join(WORDS)}) as answer:
            answer.read()
        started = server.begin("silent", INPUT)
        yield Story(watched.calls(), started)
    finally:
        watched.server.close()


def read_calls(trace: str) -> list[Call]:
    calls: list[Call] = []
    unfinished: dict[str, Call] = {}
    for number, line in enumerate(trace.splitlines()):
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
    return next(
        c for c in calls if c.name not in SYNCS and re.match(rf"\w+\(\d+<{where}", c.text) and what in c.text
    )


def synced_between(calls: list[Call], stored: Call, sent: Call) -> bool:
    return any(c.name in SYNCS and stored.ended < c.began and c.ended < sent.began for c in calls)


def test_an_appended_event_is_synced_before_it_is_visible(story: Story) -> None:
    for seq, note in enumerate(NOTES, SILENT_HEAD + 1):
        stored = first(story.calls, DATABASE, note)
        assert synced_between(story.calls, stored, first(story.calls, CONNECTION, note))
        assert synced_between(story.calls, stored, first(story.calls, CONNECTION, rf"\"last_seq\":{seq}}}"))


def test_an_agents_token_is_synced_before_it_is_visible(story: Story) -> None:
    for word in WORDS:
        said = rf"\"text\":\"{word}"
        stored, sent = first(story.calls, DATABASE, said), first(story.calls, CONNECTION, said)
        assert synced_between(story.calls, stored, sent)


def test_a_started_run_is_synced_before_its_id_is_returned(story: Story) -> None:
    stored, told = first(story.calls, DATABASE, INPUT), first(story.calls, CONNECTION, story.started)
    assert synced_between(story.calls, stored, told)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.server.close()


@pytest.mark.slow
def test_while_the_disk_is_slow_an_event_is_invisible(watched: Watched) -> None:
    server = watched.start("-e", f"inject=fdatasync,fsync:delay_enter={int(DELAY_S * 1e6)}")
    run_id = server.begin_silent()
    frames = server.frames(run_id)
    list(islice(frames, SILENT_HEAD))
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as producer:
        acknowledged = producer.submit(lambda: (server.note(run_id), time.monotonic()))
        next(frames)
        assert time.monotonic() - begun >= DELAY_S
        assert acknowledged.result()[1] - begun >= DELAY_S
