"""What recording adds to strands: agents alone, and the same agents in a runtime that writes SQLite."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from statistics import median
from typing import Any
from weakref import WeakSet

from msgspec import Struct
from strands import Agent

from benchmarks.databases import empty_database
from benchmarks.logs import Log
from benchmarks.options import Options
from benchmarks.report import Report
from runstore.core.ports import RunContext
from runstore.runtime.attempts.recorder import Recorder
from runstore.runtime.loops.agent_loops import new_event_loop
from runstore.runtime.strands.agent import StrandsAgent
from runstore.runtime.strands.models import build_agent, build_model

AGENTS = 50
INPUT = "the quick brown fox jumps over the lazy dog"
PACE = 50  # tokens/s of a model that a provider streams


class Cost(Struct, frozen=True):
    """Seconds of a round: `cpu` of all threads, `wall` from the first agent's start to the last commit."""

    cpu: float
    wall: float


def run(options: Options) -> Iterator[Report]:
    """In turns, so that what else the machine does meets both."""
    report = Report(
        f"Agents alone and recorded, {AGENTS} in one process, no HTTP",
        ("agents", "CPU µs a token", "tokens/s", "CPU against strands alone", "spread"),
        "Medians of rounds in turns. Below 1.00 an agent whose every token is committed to SQLite costs less "
        "than the same agent without a store.",
    )
    rounds = 2 if options.quick else 7
    for pace, tokens in ((0, 400), (PACE, 25 if options.quick else 100)):
        kind = f"{pace} tokens/s each" if pace else "as fast as they go"
        with empty_database(None) as url:
            alone, recorded = _rounds(url, rounds, tokens, pace)
        ratios = sorted(ours.cpu / bare.cpu for bare, ours in zip(alone, recorded, strict=True))
        for name, costs in (("strands alone", alone), ("recorded", recorded)):
            report.add(
                f"{name}, {kind}",
                f"{median(cost.cpu for cost in costs) / (AGENTS * tokens) * 1e6:.1f}",
                AGENTS * tokens / median(cost.wall for cost in costs),
                "" if costs is alone else f"{median(ratios):.2f}",
                "" if costs is alone else f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            )
    yield report


def _rounds(url: str, rounds: int, tokens: int, pace: int) -> tuple[list[Cost], list[Cost]]:
    alone, recorded = [], []
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        for _ in range(rounds + 1):
            alone.append(runner.run(_measured(_all(_alone, tokens, pace))))
            recorded.append(runner.run(_recorded(url, tokens, pace)))
    return alone[1:], recorded[1:]  # the first is warm-up


async def _measured(work: Coroutine[Any, Any, None]) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    await work
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


async def _all(speak: Callable[[Agent], Coroutine[Any, Any, None]], tokens: int, pace: int) -> None:
    model = build_model("scripted", {"tokens": tokens, "tokens_per_s": pace})
    agents = [
        build_agent("agent", model, system_prompt=None, tools=[], description=None) for _ in range(AGENTS)
    ]
    await asyncio.gather(*(speak(agent) for agent in agents))


async def _alone(agent: Agent) -> None:
    async for _ in agent.stream_async(INPUT):
        pass


async def _recorded(url: str, tokens: int, pace: int) -> Cost:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(Log(url))
        run_ids = [await log.begin() for _ in range(AGENTS)]

        async def speak(agent: Agent) -> None:
            run_id = run_ids.pop()
            context = RunContext(run_id, "bench", "agent", None, {}, 1)
            recorder = Recorder(log.log, run_id, 1)
            await StrandsAgent(agent, context, WeakSet()).run(INPUT, [], recorder)
            await log.append(run_id, 1)

        return await _measured(_all(speak, tokens, pace))
