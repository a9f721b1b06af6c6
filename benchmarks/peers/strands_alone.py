"""Agents of strands alone in a process of its own, without a store: a ceiling for what records and serves.

`python -m benchmarks.peers.strands_alone` reads requests from its input and answers each with a line of JSON:
`{"agents": 50, "tokens": 400, "at_once": true}` → `{"s": 0.2, "first_s": 0.04}`.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

INPUT = "the quick brown fox jumps over the lazy dog"


class Spoken(NamedTuple):
    """`s`: seconds until the last agent was done; `first_s`: the median until an agent's first token."""

    s: float
    first_s: float


class Alone:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def speak(self, agents: int, tokens: int, *, at_once: bool = True) -> Spoken:
        """Build and run agents, all together or one after the other."""
        assert self._process.stdin
        assert self._process.stdout
        print(
            json.dumps({"agents": agents, "tokens": tokens, "at_once": at_once}),
            file=self._process.stdin,
            flush=True,
        )
        return Spoken(**json.loads(self._process.stdout.readline()))


@contextmanager
def strands_alone() -> Iterator[Alone]:
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        alone = Alone(process)
        alone.speak(10, 100)  # warm
        yield alone
        assert process.stdin
        process.stdin.close()


async def _speak(agents: int, tokens: int, *, at_once: bool) -> Spoken:
    from strands import Agent

    from runstore.runtime.strands.models import build_model

    async def speak() -> float:
        agent = Agent(build_model("scripted", {"tokens": tokens}), callback_handler=None)
        first = 0.0
        async for event in agent.stream_async(INPUT):
            if "data" in event and not first:
                first = time.perf_counter()
        return first - start

    start = time.perf_counter()
    firsts = (
        await asyncio.gather(*(speak() for _ in range(agents)))
        if at_once
        else [await speak() for _ in range(agents)]
    )
    return Spoken(time.perf_counter() - start, median(firsts))


def _serve() -> None:
    from runstore.runtime.loops.agent_loops import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        for line in sys.stdin:
            print(json.dumps(runner.run(_speak(**json.loads(line)))._asdict()), flush=True)


if __name__ == "__main__":
    _serve()
