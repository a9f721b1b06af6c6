"""Agents: what there is, and starting runs of them."""

from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from runstore.core.content import Input, to_json
from runstore.core.events import MultitaskStrategy
from runstore.http.access import Access
from runstore.http.disconnect import OnDisconnect, cancel_run
from runstore.http.fields import Name
from runstore.http.json import json_response
from runstore.http.requests import check_parameters, read_body, read_idempotency_key
from runstore.http.runs import record_response
from runstore.http.sse import EventStream
from runstore.http.subscribers import Subscribers
from runstore.http.trace import read_traceparent
from runstore.http.users import login_of, user_of
from runstore.store import RunAt, RunStore

B = TypeVar("B", bound="StartBody")


class StartBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What a run is started with."""

    input: Input
    session_id: Name | None = None
    metadata: dict[str, Any] = {}
    workspace_id: Name | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"


class StreamBody(StartBody, frozen=True, forbid_unknown_fields=True):
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
        started = await self._start(request, await self._read(request, StartBody))
        run_id = started.run.run_id
        headers = {"Location": f"{request.scope.get('root_path', '')}/runs/{run_id}", "X-Run-Id": run_id}
        return record_response(started, 202, headers)

    async def stream(self, request: Request) -> Response:
        login = login_of(request)
        with ExitStack() as places:
            places.enter_context(self._subscribers.of_user(login.user.user_id))  # before there is a run
            body = await self._read(request, StreamBody)
            run_id = (await self._start(request, body)).run.run_id
            places.enter_context(self._subscribers.of_run(run_id))
            tail = self._store.tail(run_id, after=0)
            cancel = partial(cancel_run, self._store, run_id, login.user.user_id)
            left = cancel if body.on_disconnect == "cancel" else None
            return EventStream(tail, login, places.pop_all(), {"X-Run-Id": run_id}, left=left)

    async def _read(self, request: Request, cls: type[B]) -> B:
        check_parameters(request, ())
        self._store.catalog.spec(request.path_params["agent"])
        body = await read_body(request, cls, self._store.limits)
        self._access.check_workspace(user_of(request), body.workspace_id)
        return body

    async def _start(self, request: Request, body: StartBody) -> RunAt:
        return await self._store.start(
            request.path_params["agent"],
            to_json(body.input),
            user_id=user_of(request).user_id,
            session_id=body.session_id,
            workspace_id=body.workspace_id,
            metadata=body.metadata,
            multitask_strategy=body.multitask_strategy,
            idempotency_key=read_idempotency_key(request),
            traceparent=read_traceparent(request),
        )
