"""Finds a provider's own id of a model call in the headers of its answer.

strands passes neither the answer's headers nor the id on. Its providers' packages send their requests with
httpx. So the method that all of them pass through is replaced once (`patches.py`); outside of a model call
it behaves as before.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import httpx

# OpenAI and most others; Anthropic; AWS; Google.
HEADERS = ("x-request-id", "request-id", "x-amzn-requestid", "x-goog-request-id")
MAX_ID = 200  # characters

_send = httpx.AsyncClient.send
_on_id: ContextVar[Callable[[str], None] | None] = ContextVar("runstore_request_id", default=None)


def watch_ids(identify: Callable[[str], None]) -> None:
    """Call `identify` with the id of each answer that the present task gets from now on.

    It also gets those of answers to tools that follow in the same task, and must ignore them.
    """
    _on_id.set(identify)


async def send(self: httpx.AsyncClient, *arguments: Any, **options: Any) -> httpx.Response:
    """`AsyncClient.send`; within a model call, its id is passed on."""
    response = await _send(self, *arguments, **options)
    if (identify := _on_id.get()) is not None:
        for name in HEADERS:
            if id := response.headers.get(name):
                identify(id[:MAX_ID])
                break
    return response
