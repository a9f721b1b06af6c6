"""runstore inside a Starlette application.

uvicorn --app-dir examples starlette_app:app --port 8000
curl -X POST 'http://127.0.0.1:8000/ask?question=why'
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from runstore import MountedApp

runs = MountedApp(os.environ.get("DATABASE_URL", "sqlite:///runstore.db"))


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
    async with runs.open() as store:  # opens the database and runs agents, for as long as the server runs
        yield {"store": store}


async def ask(request: Request) -> Response:
    """A route of your own that starts a run, and tells where to follow it."""
    run_id = await request.state.store.start("demo", request.query_params["question"])
    return JSONResponse({"follow": f"/runstore/runs/{run_id}/stream"}, 202)


app = Starlette(
    routes=[Route("/ask", ask, methods=["POST"]), Mount("/runstore", app=runs)],
    lifespan=lifespan,
)
