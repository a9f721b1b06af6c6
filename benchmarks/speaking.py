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
ALONE, WITHOUT, RECORDED = "strands alone", "recorded without requests", "recorded"


class Cost(Struct, frozen=True):
    """Seconds of a round: `cpu` of all threads, `wall` from the first agent's start to the last commit."""

    cpu: float
    wall: float


def run(options: Options) -> Iterator[Report]:
    """In turns, so that what else the machine does meets all of them."""
    report = Report(
        f"Agents alone and recorded, {AGENTS} in one process, no HTTP",
        ("agents", "CPU µs a token", "tokens/s", "CPU against", "of", "spread", "tokens/s against"),
        "Medians of rounds in turns, and of the ratios within each round. Below 1.00 an agent whose every "
        "token is committed to SQLite costs less than the same agent without a store.",
    )
    rounds = 2 if options.quick else 15
    for pace, tokens in ((0, 400), (PACE, 25 if options.quick else 100)):
        kind = f"{pace} tokens/s each" if pace else "as fast as they go"
        with empty_database(None) as url:
            costs = _rounds(url, rounds, tokens, pace)
        for name, against in ((ALONE, None), (WITHOUT, ALONE), (RECORDED, WITHOUT)):
            report.add(
                f"{name}, {kind}",
                f"{median(cost.cpu for cost in costs[name]) / (AGENTS * tokens) * 1e6:.1f}",
                AGENTS * tokens / median(cost.wall for cost in costs[name]),
                *(_compared(costs[name], costs[against], against) if against else ("", "", "", "")),
            )
    yield report


def _compared(costs: list[Cost], others: list[Cost], against: str) -> tuple[str, str, str, str]:
    cpu = sorted(cost.cpu / other.cpu for cost, other in zip(costs, others, strict=True))
    speed = median(other.wall / cost.wall for cost, other in zip(costs, others, strict=True))
    return f"{median(cpu):.3f}", against, f"{cpu[0]:.2f} to {cpu[-1]:.2f}", f"{speed:.3f}"


def _rounds(url: str, rounds: int, tokens: int, pace: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {ALONE: [], WITHOUT: [], RECORDED: []}
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        for number in range(rounds + 1):
            for name in costs if number % 2 else reversed(costs):
                work = (
                    _measured(_all(_alone, tokens, pace))
                    if name == ALONE
                    else _recorded(url, tokens, pace, record_requests=name == RECORDED)
                )
                costs[name].append(runner.run(work))
    return {name: each[1:] for name, each in costs.items()}  # the first is warm-up


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


async def _recorded(url: str, tokens: int, pace: int, *, record_requests: bool) -> Cost:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(Log(url))
        run_ids = [await log.begin() for _ in range(AGENTS)]

        async def speak(agent: Agent) -> None:
            run_id = run_ids.pop()
            context = RunContext(run_id, "bench", "agent", None, {}, 1)
            recorder = Recorder(log.log, run_id, 1)
            await StrandsAgent(agent, context, WeakSet(), record_requests=record_requests).run(
                INPUT, [], recorder
            )
            await log.append(run_id, 1)

        return await _measured(_all(speak, tokens, pace))
