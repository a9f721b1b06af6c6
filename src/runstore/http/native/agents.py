"""Routes of agents: list them, and start runs of them."""

from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from runstore.core.content import Input, to_json
from runstore.core.errors import AgentNotFound
from runstore.core.new_run import NewRun, RunOptions
from runstore.http.bodies import Body
from runstore.http.errors import Forbidden
from runstore.http.json import json_response
from runstore.http.native.records import RunRecord, record_response
from runstore.http.operations import Call, Operation, Problem
from runstore.http.requests import Parameter
from runstore.http.schemas import FROM_HEADER, OF_A_START, RUN_HEADER, START_HEADERS, TEXT, json, stream
from runstore.http.security.access import Access
from runstore.http.streaming.frames import native
from runstore.http.streaming.sse import EventStream, OnDisconnect, cancel_run
from runstore.http.streaming.subscribers import Subscribers
from runstore.runtime.catalog.specs import RUN_CODE
from runstore.store.runs import RunStore

Code = Annotated[str, Meta(min_length=1)]
B = TypeVar("B", bound="StartBody | CodeBody")


class StartBody(RunOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The input and the options of a new run."""

    input: Input

    def for_agent(self) -> Any:
        """The run's input."""
        return to_json(self.input)


class CodeBody(RunOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Python code and its input."""

    code: Code
    input: Any = None

    def for_agent(self) -> Any:
        """The run's input."""
        return {"code": self.code, "input": self.input}


class StreamBody(StartBody, frozen=True, forbid_unknown_fields=True):
    """The same; `on_disconnect` says whether the run goes on when the client disconnects."""

    on_disconnect: OnDisconnect = "continue"


class CodeStreamBody(CodeBody, frozen=True, forbid_unknown_fields=True):
    """The same; `on_disconnect` says whether the run goes on when the client disconnects."""

    on_disconnect: OnDisconnect = "continue"


class AgentRecord(Struct, frozen=True):
    """An agent that can be started. `model`: null for an agent that a factory builds."""

    name: str
    description: str | None
    model: str | None
    note: str | UnsetType = UNSET


class AgentPage(Struct, frozen=True):
    """All agents."""

    data: list[AgentRecord]
    next: None = None


AGENT = Parameter("agent", TEXT, "the agent's name", "path")
STARTED = json(
    "the run is stored, and starts as soon as a slot is free",
    RunRecord,
    {"Location": {"type": "string", "format": "uri-reference"}, **RUN_HEADER},
    "$response.body#/run_id",
)
FOLLOWED = stream("the run's events, from the first one on", RUN_HEADER, FROM_HEADER)
REFUSED: tuple[Problem, ...] = (*OF_A_START, Forbidden, AgentNotFound)


class AgentRoutes:
    """The routes below `/agents`."""

    tag = "agents"

    def __init__(self, store: RunStore, access: Access, subscribers: Subscribers) -> None:
        self._store = store
        self._access = access
        self._subscribers = subscribers

    @Operation("GET", "/agents", answers={200: json("all agents", AgentPage)})
    async def list_agents(self, call: Call[None]) -> Response:
        """The agents that can be started."""
        return json_response(AgentPage(msgspec.convert(self._store.catalog.describe(), list[AgentRecord])))

    @Operation(
        "POST",
        "/agents/run-code/start",
        parameters=START_HEADERS,
        body=Body(CodeBody),
        answers={202: STARTED},
        problems=REFUSED,
    )
    async def start_code(self, call: Call[CodeBody]) -> Response:
        """Run Python, where that is enabled."""
        return await self._started(call)

    @Operation(
        "POST",
        "/agents/run-code/stream",
        parameters=START_HEADERS,
        body=Body(CodeStreamBody),
        answers={200: FOLLOWED},
        problems=REFUSED,
    )
    async def start_and_follow_code(self, call: Call[CodeStreamBody]) -> Response:
        """Run Python and follow it, where that is enabled."""
        return await self._followed(call)

    @Operation(
        "POST",
        "/agents/{agent}/start",
        parameters=(AGENT, *START_HEADERS),
        body=Body(StartBody),
        answers={202: STARTED},
        problems=REFUSED,
    )
    async def start_run(self, call: Call[StartBody]) -> Response:
        """Start a run."""
        return await self._started(call)

    @Operation(
        "POST",
        "/agents/{agent}/stream",
        parameters=(AGENT, *START_HEADERS),
        body=Body(StreamBody),
        answers={200: FOLLOWED},
        problems=REFUSED,
    )
    async def start_and_follow_run(self, call: Call[StreamBody]) -> Response:
        """Start a run and follow it."""
        return await self._followed(call)

    async def _started(self, call: Call[StartBody | CodeBody]) -> Response:
        new, _ = await self._new_run(call)
        started = await self._store.start(new)
        run_id = started.run.run_id
        root = call.request.scope.get("root_path", "")
        headers = {"Location": f"{root}/runs/{run_id}", "X-Run-Id": run_id}
        return record_response(started, 202, headers)

    async def _followed(self, call: Call[StreamBody | CodeStreamBody]) -> Response:
        user_id = call.user.user_id
        with ExitStack() as resources:
            resources.enter_context(self._subscribers.of_user(user_id))  # before there is a run
            new, body = await self._new_run(call)
            started, tail = await self._store.start_and_tail(new, resources)
            run_id = started.run.run_id
            resources.enter_context(self._subscribers.of_run(run_id))
            cancel = partial(cancel_run, self._store, run_id, call.login.actor)
            left = cancel if body.on_disconnect == "cancel" else None
            return EventStream(native(tail), call.login, resources.pop_all(), {"X-Run-Id": run_id}, left=left)

    async def _new_run(self, call: Call[B]) -> tuple[NewRun, B]:
        agent = call.request.path_params.get("agent", RUN_CODE)
        self._store.catalog.spec(agent)
        body = await call.body()
        self._access.check_workspace(call.user, body.workspace_id)
        return call.new_run(agent, body.for_agent(), body), body
