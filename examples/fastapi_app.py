"""runstore inside a FastAPI application, with an agent of the application's own.

uvicorn --app-dir examples fastapi_app:app --port 8000
curl -X POST 'http://127.0.0.1:8000/ask?question=why'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from runstore import MountedApp


async def parrot(input: str) -> AsyncIterator[str]:
    """An agent: an async generator function here, or one that returns a strands Agent."""
    for word in input.split():
        yield f"{word}! "


runs = MountedApp(os.environ.get("DATABASE_URL", "sqlite:///runstore.db"), agents={"parrot": parrot})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with runs.open() as store:  # opens the database and runs agents, for as long as the server runs
        app.state.store = store
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/runstore", runs)


@app.post("/ask", status_code=202)
async def ask(question: str, request: Request) -> dict[str, str]:
    """A route of your own that starts a run, and tells where to follow it."""
    run_id = await request.app.state.store.start("parrot", question)
    return {"follow": f"/runstore/runs/{run_id}/stream"}
