"""The application of docs/tutorial: an agent with a tool, and a page that follows its answers.

uvicorn chat:app --port 8000
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel
from strands import Agent, tool

from runstore import MountedApp
from runstore.testing import ScriptedModel


@tool
def numbers(up_to: int) -> str:
    """The numbers from 1 up to another one."""
    return " ".join(str(number) for number in range(1, up_to + 1))


def build_desk() -> Agent:
    return Agent(model=ScriptedModel(tokens_per_s=20), tools=[numbers])


runs = MountedApp("sqlite:///chat.db", agents={"desk": build_desk})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with runs.open() as store:  # opens the database and runs agents, for as long as the server runs
        app.state.store = store
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/runstore", runs)


class Question(BaseModel):
    text: str


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("chat.html"))


@app.post("/ask", status_code=202)
async def ask(question: Question, request: Request) -> dict[str, str]:
    run_id: str = await request.app.state.store.start("desk", question.text)
    return {"run_id": run_id}
