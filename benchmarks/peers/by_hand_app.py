"""The server that teams write by hand, as docs/how-to/from-fastapi-redis.md shows it, but for its model."""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from redis.asyncio import Redis

from runstore.runtime.strands.models import build_agent, build_model

TOKENS = int(os.environ["BENCH_TOKENS"])

app = FastAPI()
redis = Redis(port=int(os.environ["BENCH_REDIS_PORT"]), decode_responses=True)
tasks: dict[str, "asyncio.Task[None]"] = {}


@app.post("/chat")
async def start_and_follow(body: dict[str, Any]) -> StreamingResponse:
    """Start a run and follow it, in one request as the benchmark does with runstore."""
    run_id = uuid.uuid4().hex
    tasks[run_id] = asyncio.create_task(work(run_id, body["input"]))
    return StreamingResponse(events(run_id), media_type="text/event-stream")


async def work(run_id: str, text: str) -> None:
    model = build_model("scripted", {"tokens": TOKENS})
    agent = build_agent("agent", model, system_prompt=None, tools=[], description=None)
    async for item in agent.stream_async(text):
        if "data" in item:
            await redis.xadd(f"run:{run_id}", {"type": "token", "text": item["data"]})
    await redis.xadd(f"run:{run_id}", {"type": "done"})
    del tasks[run_id]


async def events(run_id: str) -> AsyncIterator[str]:
    last: Any = "0"
    while True:
        for _, entries in await redis.xread({f"run:{run_id}": last}, block=15_000):
            for last, fields in entries:  # noqa: B007
                if fields["type"] != "token":
                    yield "event: lifecycle.completed\ndata: {}\n\n"
                    return
                yield f"event: llm.token\ndata: {json.dumps(fields)}\n\n"
