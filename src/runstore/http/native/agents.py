"""Agents: what there is, and starting runs of them."""

from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from runstore.core.content import Input, to_json
from runstore.core.events import MultitaskStrategy
from runstore.http.fields import Name
from runstore.http.json import json_response
from runstore.http.native.runs import record_response
from runstore.http.requests import check_parameters, read_body, read_idempotency_key
from runstore.http.security.access import Access
from runstore.http.security.users import login_of, user_of
from runstore.http.streaming.disconnect import OnDisconnect, cancel_run
from runstore.http.streaming.sse import EventStream
from runstore.http.streaming.subscribers import Subscribers
from runstore.http.trace import read_traceparent
from runstore.runtime.catalog.specs import RUN_CODE
from runstore.store.runs import RunAt, RunStore

Code = Annotated[str, Meta(min_length=1)]
B = TypeVar("B", bound="StartBody | CodeBody")


class RunOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said of any run."""

    session_id: Name | None = None
    metadata: dict[str, Any] = {}
    workspace_id: Name | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"


class StartBody(RunOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run is started with."""

    input: Input

    def for_agent(self) -> Any:
        """The run's input."""
        return to_json(self.input)


class CodeBody(RunOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Python to run, and what it is to work on."""

    code: Code
    input: Any = None

    def for_agent(self) -> Any:
        """The run's input."""
        return {"code": self.code, "input": self.input}


class StreamBody(StartBody, frozen=True, forbid_unknown_fields=True):
    """The same, and what becomes of the run if the client goes."""

    on_disconnect: OnDisconnect = "continue"


class CodeStreamBody(CodeBody, frozen=True, forbid_unknown_fields=True):
    """The same, and what becomes of the run if the client goes."""

    on_disconnect: OnDisconnect = "continue"


class AgentRecord(Struct, frozen=True):
    """An agent that can be started. `model`: None for one that a factory builds."""

    name: str
    description: str | None
    model: str | None
    note: str | UnsetType = UNSET


class AgentPage(Struct, frozen=True):
    """All agents."""

    data: list[AgentRecord]
    next: None = None


class AgentRoutes:
    """The routes below `/agents`."""

    def __init__(self, store: RunStore, access: Access, subscribers: Subscribers) -> None:
        self._store = store
        self._access = access
        self._subscribers = subscribers

    async def list(self, request: Request) -> Response:
        check_parameters(request, ())
        return json_response(AgentPage(msgspec.convert(self._store.catalog.describe(), list[AgentRecord])))

    async def start(self, request: Request) -> Response:
        return await self._started(request, StartBody)

    async def start_code(self, request: Request) -> Response:
        return await self._started(request, CodeBody)

    async def stream(self, request: Request) -> Response:
        return await self._streamed(request, StreamBody)

    async def stream_code(self, request: Request) -> Response:
        return await self._streamed(request, CodeStreamBody)

    async def _started(self, request: Request, cls: type[StartBody | CodeBody]) -> Response:
        check_parameters(request, ())
        started = await self._start(request, await self._read(request, cls))
        run_id = started.run.run_id
        headers = {"Location": f"{request.scope.get('root_path', '')}/runs/{run_id}", "X-Run-Id": run_id}
        return record_response(started, 202, headers)

    async def _streamed(self, request: Request, cls: type[StreamBody | CodeStreamBody]) -> Response:
        check_parameters(request, ())
        login = login_of(request)
        with ExitStack() as places:
            places.enter_context(self._subscribers.of_user(login.user.user_id))  # before there is a run
            body = await self._read(request, cls)
            run_id = (await self._start(request, body)).run.run_id
            places.enter_context(self._subscribers.of_run(run_id))
            tail = self._store.tail(run_id, after=0)
            cancel = partial(cancel_run, self._store, run_id, login.user.user_id)
            left = cancel if body.on_disconnect == "cancel" else None
            return EventStream(tail, login, places.pop_all(), {"X-Run-Id": run_id}, left=left)

    async def _read(self, request: Request, cls: type[B]) -> B:
        self._store.catalog.spec(_agent_of(request))
        body = await read_body(request, cls)
        self._access.check_workspace(user_of(request), body.workspace_id)
        return body

    async def _start(self, request: Request, body: StartBody | CodeBody) -> RunAt:
        return await self._store.start(
            _agent_of(request),
            body.for_agent(),
            user_id=user_of(request).user_id,
            session_id=body.session_id,
            workspace_id=body.workspace_id,
            metadata=body.metadata,
            multitask_strategy=body.multitask_strategy,
            idempotency_key=read_idempotency_key(request),
            traceparent=read_traceparent(request),
        )


def _agent_of(request: Request) -> str:
    name: str = request.path_params.get("agent", RUN_CODE)
    return name
