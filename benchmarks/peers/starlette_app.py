"""A bare Starlette application with streams: what serving events is held against.

`BENCH_STREAM` names a file, whose bytes `/ready` sends; `/idle` says one event and then waits.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PIECE = 1 << 14  # bytes
READY = Path(os.environ["BENCH_STREAM"]).read_bytes() if "BENCH_STREAM" in os.environ else b""


async def ready(_: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(READY), PIECE):
            yield READY[start : start + PIECE]

    return StreamingResponse(body(), media_type="text/event-stream")


async def idle(_: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"event: llm.token\ndata: {}\n\n"
        await asyncio.Event().wait()

    return StreamingResponse(body(), media_type="text/event-stream")


app = Starlette(routes=[Route("/ready", ready), Route("/idle", idle)])
