"""Many runs on several servers, seen from outside: clients start them, follow them and add to them.

A reader moves to another server again and again, with its `Last-Event-ID`, and goes on when its server dies,
freezes or refuses. The clients' answers are recorded for `tests/kit/checks.py`.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import httpx

from tests.kit.frames import Frame, FrameReader

LATER = (429, 503)  # answers that ask to try again
PAUSE_S = 0.05  # before it is tried again, or the next note is added
SILENCE_S = 5.0  # after which a follower goes to another server; heartbeats have to be more frequent
FRAMES_A_HOP = 60  # at most; each number is drawn at random
FINISH_S = 120.0  # for all runs to end, after the faults


@dataclass
class Seen:
    """The answers that clients got about one run. `frames`: over all connections, in order of arrival."""

    run_id: str
    frames: list[Frame] = field(default_factory=list)
    connections: int = 0
    offered: int = 0  # notes that were sent, with the numbers 0, 1, …
    acknowledged: dict[int, int] = field(default_factory=dict)  # number of a note → its seq

    @property
    def ended(self) -> bool:
        return bool(self.frames) and self.frames[-1].ends


class Load:
    """Clients of the servers at `urls`, which is called for each request, since servers come and go.

    Args:
        seed: of the random choice of servers and moves.
    """

    def __init__(
        self, urls: Callable[[], list[str]], *, seed: int = 2026, silence_s: float = SILENCE_S
    ) -> None:
        self.runs: list[Seen] = []
        self._urls = urls
        self._chance = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(timeout=silence_s, trust_env=False, verify=False, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    @property
    def frames(self) -> int:
        """How many have been seen so far, of all runs."""
        return sum(len(seen.frames) for seen in self.runs)

    def begin(self, runs: int, agent: str, *, notes: bool = False, **body: Any) -> None:
        """Start runs, and follow them to their ends; with `notes` a producer adds events to each as well."""
        for _ in range(runs):
            self._spawn(self._run(agent, notes, body))

    async def until_seen(self, frames: int) -> None:
        """Wait until so many frames have been seen in all."""
        await self.until(lambda: self.frames >= frames, f"{frames} frames")

    async def finish(self) -> None:
        """Wait until all runs have ended and all readers are done."""
        await self.until(lambda: all(task.done() for task in self._tasks), "the end of every run")

    async def until(self, claim: Callable[[], bool], what: str) -> None:
        """Wait until `claim` holds or a client has failed; its error is raised here."""
        deadline = time.monotonic() + FINISH_S
        while True:
            for task in self._tasks:
                if task.done():
                    task.result()
            if claim():
                return
            left = [f"{seen.run_id} at {len(seen.frames)}" for seen in self.runs if not seen.ended]
            assert time.monotonic() < deadline, f"not within {FINISH_S} s: {what}; runs that go on: {left}"
            await asyncio.sleep(0.02)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Ask one server after the other until one answers; only for requests that are safe to repeat."""
        while True:
            with suppress(httpx.TransportError):
                answer = await self._http.post(self._any_url() + path, json=body, headers=headers)
                if answer.status_code not in LATER:
                    return answer
            await asyncio.sleep(PAUSE_S)

    async def stop(self, run_id: str) -> None:
        answer = await self.post(f"/runs/{run_id}/stop", {})
        assert answer.status_code == 202, answer.text

    async def replay(self, url: str, run_id: str) -> list[Frame]:
        """All events of a closed run, from one server."""
        reader, frames = FrameReader(), []
        async with self._http.stream("GET", f"{url}/runs/{run_id}/stream") as answer:
            assert answer.status_code == 200, await answer.aread()
            async for part in answer.aiter_raw():
                frames += reader.feed(part)
        return frames

    async def get(self, url: str, path: str, **parameters: Any) -> Any:
        answer = await self._http.get(url + path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def _run(self, agent: str, notes: bool, body: dict[str, Any]) -> None:
        answer = await self.post(
            f"/agents/{agent}/start", {"input": "hi"} | body, **{"Idempotency-Key": uuid.uuid4().hex}
        )
        assert answer.status_code in (200, 202), answer.text
        seen = Seen(answer.json()["run_id"])
        self.runs.append(seen)
        if notes:
            self._spawn(self._produce(seen))
        await self._follow(seen)

    async def _follow(self, seen: Seen) -> None:
        while True:
            seen.connections += 1
            with suppress(httpx.TransportError):
                if await self._connect(seen):
                    return
                continue
            await asyncio.sleep(PAUSE_S)

    async def _connect(self, seen: Seen) -> bool:
        """Follow for a while; returns whether the server said that there is no more."""
        after = {"Last-Event-ID": str(seen.frames[-1].seq)} if seen.frames else {}
        url = f"{self._any_url()}/runs/{seen.run_id}/stream"
        async with self._http.stream("GET", url, headers=after) as answer:
            if answer.status_code in LATER:
                await asyncio.sleep(PAUSE_S)
                return False
            assert answer.status_code in (200, 204), await answer.aread()
            hop_at = len(seen.frames) + self._chance.randint(1, FRAMES_A_HOP)
            reader = FrameReader()
            async for part in answer.aiter_raw():
                for frame in reader.feed(part):
                    seen.frames.append(frame)
                    if len(seen.frames) == hop_at and not seen.ended:
                        return False  # what else has come was not seen
            return answer.status_code == 204 or seen.ended

    async def _produce(self, seen: Seen) -> None:
        """Add notes, each once, until the run has ended; the outcome of unanswered ones is unknown."""
        for number in count():
            seen.offered = number + 1
            with suppress(httpx.TransportError):
                url = f"{self._any_url()}/runs/{seen.run_id}/events"
                answer = await self._http.post(url, json={"type": "custom.note", "data": number})
                if answer.status_code == 409:
                    assert answer.json()["error"]["code"] == "run_closed", answer.text
                    return
                if answer.status_code == 201:
                    seen.acknowledged[number] = answer.json()["last_seq"]
                else:
                    assert answer.status_code in LATER, answer.text
            await asyncio.sleep(PAUSE_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def _any_url(self) -> str:
        return self._chance.choice(self._urls()).rstrip("/")
