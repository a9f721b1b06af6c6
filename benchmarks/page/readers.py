"""Replays, readers that come back at once, many readers of one run, and idle ones."""

import asyncio
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID

import httpx

from benchmarks.client import TOKEN, Stream, follow
from benchmarks.options import Options
from benchmarks.page.figure import Aim, Figure
from benchmarks.peers.process import application
from benchmarks.server import Server, cpu_s, proportional_kib, until_at_rest

CONFIG = """
[agents.long]
model = "scripted"
tokens = {long}

[agents.middle]
model = "scripted"
tokens = 10000

[agents.short]
model = "scripted"
tokens = 1000

[agents.slow]
model = "scripted"
tokens = 1000
tokens_per_s = 0.01

[limits]
subscribers_per_run = 20000
subscribers_per_user = 20000
"""
STARLETTE = "benchmarks.peers.starlette_app:app"
BACK = 5_000  # the seq from which readers come back to a run of 10,000 tokens
CAUGHT_UP_S = 10
KIB_EACH = 12
WAVE = 1_000  # idle readers that connect at once
WATCHED_S = 15  # a heartbeat of each idle reader


def figures(options: Options) -> Iterator[Figure]:
    long, crowd, idle = (1_000, 10, 20) if options.quick else (100_000, 1_000, 10_000)
    ours: dict[str, list[float]] = defaultdict(list)
    theirs: dict[str, list[float]] = defaultdict(list)
    clients: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "runstore.toml"
        config.write_text(CONFIG.format(long=long))
        server = stack.enter_context(Server(config))
        run_ids = {agent: _made(server, agent) for agent in ("long", "middle", "short")}
        ready = folder / "ready"
        ready.write_bytes(
            httpx.get(f"http://127.0.0.1:{server.port}{_path(run_ids['short'])}", timeout=None).content
        )
        peer = stack.enter_context(application(STARLETTE, BENCH_STREAM=str(ready)))
        for _ in range(options.rounds):
            for name, run_id, readers, after in (
                ("replay", run_ids["long"], 1, 0),
                ("back", run_ids["middle"], crowd, BACK),
                ("many", run_ids["short"], crowd, 0),
            ):
                streams, took, client = _followed(server.port, _path(run_id), readers, after=after)
                events = sum(stream.events for stream in streams)
                ours[name].append(took if name == "back" else events / took)
                clients[name].append(client)
            theirs["replay"].append(_selected(folder / "bench.db", run_ids["long"]))
            streams, took, _ = _followed(peer.port, "/ready", crowd)
            theirs["many"].append(sum(stream.events for stream in streams) / took)
        theirs["back"] = [CAUGHT_UP_S] * options.rounds
        yield Figure(
            f"replay of a run with {long:,} tokens", "SELECT and a join of bytes, one thread", "events/s",
            Aim(least=0.5), ours["replay"], theirs["replay"], clients["replay"],
        )  # fmt: skip
        yield Figure(
            f"{crowd:,} readers come back amid a run of 10,000 tokens: caught up", "what is allowed", "s",
            Aim(most=1), ours["back"], theirs["back"], clients["back"],
        )  # fmt: skip
        yield Figure(
            f"one run to {crowd:,} readers", "Starlette, the same bytes", "events/s", Aim(least=0.7),
            ours["many"], theirs["many"], clients["many"],
        )  # fmt: skip
    yield from _idle(idle, 1 if options.quick else WATCHED_S)


def _idle(readers: int, watched_s: float) -> Iterator[Figure]:
    """One round, on servers that have done nothing: memory that was used once is used again."""
    with ExitStack() as stack:
        config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "runstore.toml"
        config.write_text(CONFIG.format(long=1))
        server = stack.enter_context(Server(config))
        peer = stack.enter_context(application(STARLETTE))
        run_id = server.begin("slow")
        server.until_begun(run_id)
        until_at_rest(server.process.pid)
        kept = [
            asyncio.run(_kept(pid, port, path, readers, watched_s))
            for pid, port, path in (
                (server.process.pid, server.port, _path(run_id)),
                (peer.pid, peer.port, "/idle"),
            )
        ]
        server.stop(run_id)
    memory, cores = zip(*kept, strict=True)
    yield Figure(
        f"memory of each of {readers:,} idle readers", "a StreamingResponse of Starlette", "KiB",
        Aim(most=KIB_EACH, of="difference"), *([value] for value in memory),
    )  # fmt: skip
    yield Figure(
        f"CPU of {readers:,} idle readers, heartbeats included", "a whole core", "%", Aim(most=0.05),
        [100 * cores[0]], [100.0],
    )  # fmt: skip


async def _kept(pid: int, port: int, path: str, readers: int, watched_s: float) -> tuple[float, float]:
    """KiB of a server's memory for each reader that has received something, and the cores that all use."""
    before = proportional_kib(pid)
    connections: list[asyncio.StreamWriter] = []
    while len(connections) < readers:  # a server closes connections that wait, if thousands do at once
        wave = min(WAVE, readers - len(connections))
        connections += await asyncio.gather(*(_idle_reader(port, path) for _ in range(wave)))
    after, used = proportional_kib(pid), cpu_s(pid)
    await asyncio.sleep(watched_s)
    cores = (cpu_s(pid) - used) / watched_s
    for connection in connections:
        connection.close()
    return (after - before) / readers, cores


async def _idle_reader(port: int, path: str) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await reader.readuntil(TOKEN)
    return writer


def _made(server: Server, agent: str) -> str:
    """A run that has ended."""
    run_id = server.begin(agent)
    _followed(server.port, _path(run_id), 1)
    return run_id


def _followed(port: int, path: str, readers: int, *, after: int = 0) -> tuple[list[Stream], float, float]:
    """What so many readers saw, how long it took in s, and the CPU seconds that they used in each."""

    async def read() -> list[Stream]:
        return await asyncio.gather(*(follow(port, "GET", path, after=after) for _ in range(readers)))

    cpu, start = time.process_time(), time.perf_counter()
    streams = asyncio.run(read())
    took = time.perf_counter() - start
    return streams, took, (time.process_time() - cpu) / took


def _selected(database: Path, run_id: str) -> float:
    """Events a second of a SELECT by hand, with a join of all bytes."""
    with closing(sqlite3.connect(database)) as connection:
        start = time.perf_counter()
        rows = connection.execute(
            "SELECT seq, type, data FROM events WHERE run_id = ? ORDER BY seq", (UUID(run_id).bytes,)
        )
        pieces = [b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, kind.encode(), data) for seq, kind, data in rows]
        b"".join(pieces)
        return len(pieces) / (time.perf_counter() - start)


def _path(run_id: str) -> str:
    return f"/runs/{run_id}/stream"
