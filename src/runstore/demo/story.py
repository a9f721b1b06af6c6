"""The demo: leave and rejoin runs on real servers over real HTTP, and check every claim."""

import itertools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.markup import escape

from runstore.client.sse import FrameParser
from runstore.core.events import ENDINGS
from runstore.core.folds.transcript import text
from runstore.core.records import EventRecord

TIMEOUT_S = 120.0  # seconds for one step; a real model may need that long
SHORT = "Count from 1 to 30"
LONG = "Write a very long essay about space exploration"
WORD = "Say 'BETA' five times"


class ClaimFailed(Exception):
    """A promise of runstore did not hold."""


class DemoFrame(msgspec.Struct, frozen=True):
    """One server-sent event with its original bytes."""

    raw: bytes
    event: dict[str, Any]

    @property
    def seq(self) -> int:
        seq: int = self.event["seq"]
        return seq


class DemoServer:
    """A `runstore serve` process of our own on a free port; it can be killed."""

    def __init__(self, folder: Path, config: Path | None) -> None:
        self._folder = folder
        self.database_url = f"sqlite:///{folder / 'demo.db'}"
        self._arguments = ["--database-url", self.database_url, "--host", "127.0.0.1"]
        self._arguments += ["--config", str(config)] if config else []
        self._starts = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(timeout=TIMEOUT_S, trust_env=False)  # no proxy for 127.0.0.1

    def start(self) -> None:
        path = self._folder / f"server-{next(self._starts)}.log"
        with path.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runstore", "serve", "--port", "0", *self._arguments],
                stdout=output, stderr=output, cwd=self._folder,
            )  # fmt: skip
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := re.search(r"listening .*url=(\S+)", path.read_text())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ClaimFailed(f"the server did not start:\n{path.read_text()}")
            time.sleep(0.02)
        self.http.base_url = httpx.URL(found[1])

    def kill(self) -> None:
        """Kill the process with SIGKILL, as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(TIMEOUT_S)
            self._process = None
        self.http.close()

    def run_command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "runstore", *arguments, "--database-url", self.database_url],
            capture_output=True, text=True, cwd=self._folder, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ClaimFailed(f"runstore {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def begin(self, agent: str, task: str) -> str:
        answer = self.http.post(f"/agents/{agent}/start", json={"input": task})
        if answer.status_code != 202:
            raise ClaimFailed(f"starting a run of {agent!r}: {answer.status_code} {answer.text}")
        run_id: str = answer.json()["run_id"]
        return run_id

    def frames(self, run_id: str, after: int = 0) -> Iterator[DemoFrame]:
        """The run's stream. Leaving the iteration cuts the connection."""
        with self.http.stream(
            "GET", f"/runs/{run_id}/stream", headers={"Last-Event-ID": str(after)}
        ) as answer:
            parser = FrameParser()
            for part in answer.iter_raw():
                for frame in parser.feed(part):
                    yield DemoFrame(frame.raw, msgspec.json.decode(frame.data))


class Story:
    """Runs the steps and raises ClaimFailed at the first claim that does not hold."""

    def __init__(self, console: Console, server: DemoServer, agent: str) -> None:
        self._console = console
        self._server = server
        self._agent = agent
        self._undisturbed = ""  # the text of a run whose server stays alive

    def tell(self) -> None:
        self._reconnect()
        self._two_at_once()
        self._kill()
        self._rebuild()

    def claim(self, text: str, holds: bool, detail: str = "") -> None:
        if not holds:
            raise ClaimFailed(f"{text}\n  {detail}")
        self._console.print(f"[green]✓[/] {escape(text)}", highlight=False)

    def step(self, title: str) -> None:
        self._console.print(f"\n[bold]{escape(title)}[/]", highlight=False)

    def _reconnect(self) -> None:
        self.step("1. Lose the connection, come back, miss nothing")
        run_id = self._server.begin(self._agent, SHORT)
        before = take_until_tokens(self._server.frames(run_id), 3)
        self.claim(
            f"the stream was cut in the middle of the run, after seq {before[-1].seq}", not ended(before)
        )
        after = list(self._server.frames(run_id, before[-1].seq))
        seqs = [frame.seq for frame in before + after]
        self.claim(
            f"Last-Event-ID {before[-1].seq} brought the rest: seq 1 to {seqs[-1]}, each exactly once",
            seqs == list(range(1, len(seqs) + 1)) and ended(after), f"got {seqs}",
        )  # fmt: skip
        replay = b"".join(frame.raw for frame in self._server.frames(run_id))
        joined = b"".join(frame.raw for frame in before + after)
        self.claim("the two parts are byte for byte one uncut replay", joined == replay)
        self._undisturbed = text_of(before + after)

    def _two_at_once(self) -> None:
        self.step("2. Two runs at once")
        essay = self._server.begin(self._agent, LONG)
        words = self._server.begin(self._agent, WORD)
        both = [take_until_tokens(self._server.frames(run_id), 1) for run_id in (essay, words)]
        self.claim("both run", not any(ended(frames) for frames in both))
        answer = self._server.http.post(f"/runs/{essay}/stop")
        self.claim("stopping one is accepted (202)", answer.status_code == 202, answer.text)
        streams = {run_id: list(self._server.frames(run_id)) for run_id in (essay, words)}
        strangers = [
            f.event for run_id, frames in streams.items() for f in frames if f.event["run_id"] != run_id
        ]
        self.claim("no stream carries an event of the other run", not strangers, str(strangers[:3]))
        if self._scripted():
            mixed = "BETA" in text_of(streams[essay]) or set(text_of(streams[words]).split()) != {"BETA"}
            self.claim("no stream carries a word of the other run", not mixed, text_of(streams[words]))
        states = {run_id: self._server.http.get(f"/runs/{run_id}").json()["status"] for run_id in streams}
        self.claim(
            "the stopped run ended 'stopped', the other 'success'",
            states == {essay: "stopped", words: "success"}, str(states),
        )  # fmt: skip

    def _kill(self) -> None:
        self.step("3. kill -9 the server in the middle of a run")
        run_id = self._server.begin(self._agent, SHORT)
        seen = []
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):  # the kill breaks this connection
            for frame in self._server.frames(run_id):
                seen.append(frame)
                if len(tokens(seen)) == 5:
                    self._server.kill()
                    break
        self.claim(f"a client had seen {seen[-1].seq} events when the server died", not ended(seen))
        self._server.start()
        rest = list(self._server.frames(run_id, seen[-1].seq))
        replay = b"".join(frame.raw for frame in self._server.frames(run_id))
        joined = b"".join(frame.raw for frame in seen + rest)
        self.claim("all events that it had seen are there after the restart, byte for byte", joined == replay)
        self.claim(
            f"the run went on in a new attempt and its subscriber got the ending: {rest[-1].event['type']}",
            ended(rest) and any(f.event["type"] == "lifecycle.started" for f in rest),
        )  # fmt: skip
        if self._scripted():
            kept = text(msgspec.convert(frame.event, EventRecord) for frame in seen + rest)
            self.claim(
                "without the repeated part (discard_after_seq) the text equals that of an undisturbed run",
                kept == self._undisturbed, f"{kept!r}\n  {self._undisturbed!r}",
            )  # fmt: skip

    def _rebuild(self) -> None:
        self.step("4. Drop the run list, rebuild it from the log")
        before = self._server.http.get("/runs").content
        self._server.run_command("projections", "drop", "runs", "--yes")
        empty = self._server.http.get("/runs").json()["data"]
        self.claim("the run list is gone", empty == [], str(empty))
        rebuilt = self._server.run_command("projections", "rebuild", "runs")
        after = self._server.http.get("/runs").content
        self.claim(
            f"rebuilt, it is byte for byte the same ({rebuilt})", before == after, f"{before!r}\n  {after!r}"
        )
        self.claim(self._server.run_command("projections", "verify", "runs"), True)

    def _scripted(self) -> bool:
        agents = self._server.http.get("/agents").json()["data"]
        return any(agent["name"] == self._agent and agent.get("model") == "scripted" for agent in agents)


def run_demo(config: Path | None, agent: str) -> int:
    """Run the demo; the exit code is 0 only if every claim held."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="runstore-demo-", ignore_cleanup_errors=True) as folder:
        server = DemoServer(Path(folder), config.resolve() if config else None)
        try:
            server.start()
            Story(console, server, agent).tell()
        except (ClaimFailed, httpx.HTTPError) as error:
            console.print(f"[red]✗[/] {escape(str(error) or type(error).__name__)}", highlight=False)
            return 1
        finally:
            server.stop()
    console.print("\n[bold green]Every claim held.[/]")
    return 0


def take_until_tokens(frames: Iterator[DemoFrame], count: int) -> list[DemoFrame]:
    taken: list[DemoFrame] = []
    for frame in frames:
        taken.append(frame)
        if len(tokens(taken)) == count:
            break
    return taken


def tokens(frames: list[DemoFrame]) -> list[str]:
    return [frame.event["data"]["text"] for frame in frames if frame.event["type"] == "llm.token"]


def text_of(frames: list[DemoFrame]) -> str:
    return "".join(tokens(frames))


def ended(frames: list[DemoFrame]) -> bool:
    return bool(frames) and frames[-1].event["type"] in ENDINGS
