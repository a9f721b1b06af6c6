"""Real strands agents to SSE clients over HTTP, beside the same agents in strands alone, without a store."""

import asyncio
import functools
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.client import Stream
from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure
from benchmarks.peers.strands_alone import strands_alone
from benchmarks.report import percentile
from benchmarks.server import Server, start_and_follow

TOKENS = 400
RUNS, MANY = 50, 500
PACE = 50  # tokens/s of a run
AT_ONCE = 16  # one-token runs
CONFIG = """
[agents.load]
model = "scripted"
tokens = {tokens}

[agents.once]
model = "scripted"
tokens = 1

[agents.paced]
model = "scripted"
tokens = {paced}
tokens_per_s = {pace}
"""

Values = dict[str, list[float]]  # a value per round


class Load:
    """The load generator: this process, and how much of a core it uses."""

    def __init__(self) -> None:
        self.clients: dict[str, list[float]] = defaultdict(list)

    def run(
        self, name: str, work: Coroutine[Any, Any, tuple[list[Stream], float]]
    ) -> tuple[list[Stream], float]:
        cpu, start = time.process_time(), time.perf_counter()
        seen = asyncio.run(work)
        self.clients[name].append((time.process_time() - cpu) / (time.perf_counter() - start))
        return seen


def figures(options: Options) -> Iterator[Figure]:
    """In turns, so that what else the machine does meets all."""
    runs, many, one_token, paced = (5, 10, 20, 25) if options.quick else (RUNS, MANY, 1_000, 500)
    ours: Values = defaultdict(list)
    theirs: Values = defaultdict(list)
    load = Load()
    with ExitStack() as stack:
        config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "runstore.toml"
        config.write_text(CONFIG.format(tokens=TOKENS, paced=paced, pace=PACE))
        alone = stack.enter_context(strands_alone())
        server = stack.enter_context(Server(config))
        load.run("", start_and_follow(server, "load", runs))  # warm
        for _ in range(options.rounds):
            spoken = alone.speak(runs, TOKENS)
            theirs["tokens"].append(runs * TOKENS / spoken.s)
            ours["tokens"].append(_rate(load.run("tokens", start_and_follow(server, "load", runs))))
            ours["many"].append(_rate(load.run("many", start_and_follow(server, "load", many))))
            crowd, _ = load.run("crowd", start_and_follow(server, "once", runs))
            ours["crowd"].append(_first_ms(crowd, 50))
            theirs["crowd"].append(alone.speak(runs, 1).first_s * 1000)
            singles = [load.run("one", start_and_follow(server, "once", 1))[0][0] for _ in range(20)]
            ours["one"].append(_first_ms(singles, 50))
            theirs["one"].append(alone.speak(20, 1, at_once=False).s / 20 * 1000)
            _, took = load.run("runs", _one_token_runs(server, one_token))
            ours["runs"].append(one_token / took)
            theirs["runs"].append(one_token / alone.speak(one_token, 1, at_once=False).s)
            streams, took = load.run("paced", start_and_follow(server, "paced", many, delays=True))
            ours["paced"].append(_rate((streams, took)))
            delays = list(itertools.chain.from_iterable(stream.delays for stream in streams))
            ours["delay"].append(percentile(delays, 99) * 1000)
    theirs["many"] = ours["tokens"]
    theirs["paced"] = [many * PACE] * options.rounds
    theirs["delay"] = [1000 / PACE] * options.rounds
    value = functools.partial(Aim, of="value")
    shown = {
        "tokens": (f"tokens/s, {runs} runs", "strands alone, one process", "/s", Aim(least=1.0)),
        "many": (f"tokens/s, {many} runs", f"{runs} runs of runstore", "/s", Aim(least=0.95)),
        "crowd": (f"first token, {runs} starts at once, p50", "strands alone", "ms", value(most=60)),
        "one": ("first token, one start, p50", "a one-token run of strands alone", "ms", value(most=8)),
        "runs": (f"runs of one token, {AT_ONCE} at once", "strands alone", "/s", Aim(least=0.5)),
        "paced": (f"{many} runs at {PACE} tokens/s", "what was asked", "/s", Aim(least=0.98)),
        "delay": ("from append to client then, p99", "the time of a token", "ms", value(most=100)),
    }
    for name, (what, against, unit, aim) in shown.items():
        yield Figure(what, against, unit, aim, ours[name], theirs[name], load.clients[name])


async def _one_token_runs(server: Server, count: int) -> tuple[list[Stream], float]:
    start = time.perf_counter()
    left = iter(range(count))

    async def client() -> list[Stream]:
        return [(await start_and_follow(server, "once", 1))[0][0] for _ in left]

    seen = await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return list(itertools.chain.from_iterable(seen)), time.perf_counter() - start


def _rate(seen: tuple[list[Stream], float]) -> float:
    streams, took = seen
    return sum(stream.tokens for stream in streams) / took


def _first_ms(streams: list[Stream], percent: float) -> float:
    return percentile([stream.first_token_at - stream.asked_at for stream in streams], percent) * 1000
