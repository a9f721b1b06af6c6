"""Waiting for states that no signal announces."""

import asyncio
from collections.abc import Awaitable, Callable

DEADLINE_S = 120.0  # a busy machine may take its time
SHORTEST_S, LONGEST_S = 0.002, 0.02  # between two looks


async def until(claim: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return as soon as `claim` holds; fail when it does not within DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        pause_s = SHORTEST_S
        while True:
            answer = claim()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(1.2 * pause_s, LONGEST_S)
