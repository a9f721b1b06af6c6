"""Agents that each run's own process imports, so without strands, which takes most of a second."""

import asyncio
import logging
from collections.abc import AsyncIterator

from runstore.core.errors import AgentError


async def echo(input: object) -> AsyncIterator[str]:
    yield str(input)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("I say nothing")


def cycle() -> Exception:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def own_cause() -> Exception:
    error = ValueError("my own cause")
    error.__context__ = error.__cause__ = error
    return error


ERRORS = {
    "own_code": AgentError("out of paper", code="no_paper"),
    "own_cause": own_cause(),
    "cycle": cycle(),
    "mute": Mute(),
    "huge": ValueError("x" * 10_000_000),
    "group": ExceptionGroup("two of them", [ValueError("one"), KeyError("other")]),
    "alone": ExceptionGroup("unhandled errors in a TaskGroup", [AgentError("out of ink", code="no_ink")]),
    "odd_code": AgentError("odd", code=5),  # type: ignore[arg-type]
    "long_code": AgentError("long", code="c" * 2_000_000),
    "mute_code": AgentError("mute", code=Mute()),  # type: ignore[arg-type]
}


async def raising(input: str) -> AsyncIterator[str]:
    yield "so far "
    raise ERRORS[input]


async def cancelling(input: str) -> AsyncIterator[str]:
    yield "so far "
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)


async def leaving_a_canceller(input: str) -> AsyncIterator[str]:
    async def cancel() -> None:
        while True:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

    yield "so far "
    logging.getLogger("of the agent").warning("x" * 8_000)
    left.append(asyncio.create_task(cancel()))


async def stopping_the_loop(input: str) -> AsyncIterator[str]:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    yield "on and on"


async def leaving_what_exits(input: str) -> AsyncIterator[str]:
    async def leave() -> None:
        raise SystemExit(3)

    left.append(asyncio.create_task(leave()))
    await asyncio.sleep(0)
    yield "on and on"


left: list[asyncio.Task[None]] = []


async def needy(input: str) -> AsyncIterator[str]:
    yield "x"
    try:
        raise MemoryError
    except MemoryError as error:
        raise ExceptionGroup("of a TaskGroup", [ValueError("no room"), error]) from own_cause()
