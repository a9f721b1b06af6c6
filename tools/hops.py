"""Print the modules of the package that a start, a token and a cancel pass.

    python tools/hops.py    # about 20 s; needs no server and no key

It runs `runstore serve` on an SQLite file with a strands agent whose model says a word every 0.6 s, and
starts, follows and stops runs over HTTP, eight times. A profiler notes every call of a Python function, in
all threads of that process. A module counts if one of its functions ran, all times but one, between two
moments:

- a start: from its request until its answer;
- a token: in the 0.2 s before the client has read it, in which nothing else happens in the run;
- a cancel: from its request until the client has read the ending.

Background work does not count: modules that run as often in 0.2 s while the run waits for its next word. Work
that is rarer does not run so many times. The model and the client do not count, nor does code that runs
without a call of a Python function, such as making a struct.
"""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from strands import Agent

from runstore.client import Client
from runstore.demo.model import ScriptedModel

TRIES = 8
MISSED = 1  # tries in which a module that counts may be missing, as a busy machine delays its work
BACKGROUND = "background"
PAUSE_S = 0.6  # seconds before each word of the model
TOKEN_S = 0.2  # seconds that a token takes at most
REST_S = 0.15  # seconds after an answer in which the work for it ends
LIMIT_S = 60  # seconds for all
CONFIG = '[agents.slow]\nfactory = "hops:slow"\n'

Calls = list[tuple[float, str]]  # when a function of a module was called, by time.monotonic()
Span = tuple[float, float]


class SlowModel(ScriptedModel):
    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(PAUSE_S)
        async for event in super().stream(*args, **kwargs):
            yield event


def slow() -> Agent:
    return Agent(model=SlowModel(tokens_per_s=1 / PAUSE_S), callback_handler=None)


def serve(calls_to: Path) -> None:
    """Run the server; when standard input ends, write the calls to a file and leave."""
    from runstore.cli.main import main

    calls: Calls = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("runstore."):
            calls.append((time.monotonic(), frame.f_globals["__name__"]))

    def leave() -> None:
        sys.stdin.read()
        calls_to.write_text(json.dumps(calls))
        os._exit(0)

    threading.Thread(target=leave, daemon=True).start()
    threading.setprofile(note)
    sys.setprofile(note)
    sys.argv = ["runstore", "serve", "--port", "0", "--database-url", "sqlite:///runstore.db"]
    main()


@contextmanager
def profiled_server(folder: Path, calls: Calls) -> Iterator[str]:
    """The URL of a server; at the end `calls` has the calls of its functions."""
    (folder / "runstore.toml").write_text(CONFIG)
    command = [sys.executable, str(Path(__file__).resolve()), str(folder / "calls.json")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdin=pipe, stderr=pipe, text=True) as server:
        limit = threading.Timer(LIMIT_S, server.kill)
        limit.start()
        try:
            assert server.stderr is not None
            yield next(found[1] for line in server.stderr if (found := re.search(r"url=(http\S+)", line)))
            server.communicate()
            calls += json.loads((folder / "calls.json").read_text())
        finally:
            limit.cancel()
            server.kill()


def one_run(client: Client) -> Mapping[str, Span]:
    """Start a run, read a token, and stop it."""
    spans: dict[str, Span] = {}

    def span_since(begin: float) -> Span:
        end = time.monotonic()
        time.sleep(REST_S)
        return begin, end

    sent = time.monotonic()
    run_id = client.start("slow", "one two three four five six seven eight nine").run_id
    spans["a start"] = span_since(sent)
    events = client.stream(run_id)
    tokens = (event for event in events if event.type == "llm.token")
    next(tokens)
    time.sleep(REST_S)
    spans[BACKGROUND] = time.monotonic(), time.monotonic() + TOKEN_S
    next(tokens)
    spans["a token"] = span_since(time.monotonic() - TOKEN_S)
    sent = time.monotonic()
    client.stop(run_id)
    for _ in events:
        pass  # to the ending
    spans["a cancel"] = span_since(sent)
    return spans


def modules_in(calls: Calls, spans: list[Span]) -> list[str]:
    """The modules of which a function was called in most spans, in the order of their first calls."""
    found = Counter[str]()
    for begin, end in spans:
        found.update([*dict.fromkeys(name for at, name in calls if begin <= at <= end)])
    most = len(spans) - MISSED
    return [name for name, count in found.items() if count >= most and not name.startswith("runstore.demo")]


def main() -> None:
    calls: Calls = []
    with (
        tempfile.TemporaryDirectory() as folder,
        profiled_server(Path(folder), calls) as url,
        Client(url) as client,
    ):
        one_run(client)  # modules are imported now
        runs = []
        for _ in range(TRIES):
            time.sleep(random.uniform(0, 0.5))  # not in step with work that is done every half second
            runs.append(one_run(client))
    passed = {name: modules_in(calls, [run[name] for run in runs]) for name in runs[0]}
    for name, modules in passed.items():
        if name != BACKGROUND:
            modules = [module for module in modules if module not in passed[BACKGROUND]]
        names = ", ".join(module.removeprefix("runstore.") for module in modules)
        print(f"{name}: {len(modules)} modules", textwrap.fill(names, 110), sep="\n", end="\n\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(Path(sys.argv[1]))
    else:
        main()
