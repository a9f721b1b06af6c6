"""Agents: what there is, and starting runs of them."""

from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from runstore.core.content import Input, to_json
from runstore.http.errors import BadRequest
from runstore.http.json import json_response
from runstore.http.requests import check_parameters, read_body
from runstore.http.runs import record_response
from runstore.http.sse import EventStream
from runstore.http.users import user_of
from runstore.store import RunStore

MAX_SESSION_ID = 255  # characters


class StartBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What a run is started with."""

    input: Input
    session_id: str | None = None
    metadata: dict[str, Any] = {}


class AgentRoutes:
    """The routes below `/agents`."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    async def list(self, request: Request) -> Response:
        check_parameters(request, ())
        return json_response({"data": self._store.catalog.describe(), "next": None})

    async def start(self, request: Request) -> Response:
        run_id = await self._start(request)
        headers = {"Location": f"{request.scope.get('root_path', '')}/runs/{run_id}", "X-Run-Id": run_id}
        return record_response(await self._store.get(run_id), 202, headers)

    async def stream(self, request: Request) -> Response:
        run_id = await self._start(request)
        return EventStream(self._store.tail(run_id, after=0), {"X-Run-Id": run_id})

    async def _start(self, request: Request) -> str:
        check_parameters(request, ())
        agent = request.path_params["agent"]
        self._store.catalog.spec(agent)
        body = await read_body(request, StartBody)
        if body.session_id is not None and not 0 < len(body.session_id) <= MAX_SESSION_ID:
            raise BadRequest(f"$.session_id must have 1 to {MAX_SESSION_ID} characters", code="invalid_body")
        return await self._store.start(
            agent,
            to_json(body.input),
            user_id=user_of(request).user_id,
            session_id=body.session_id,
            metadata=body.metadata,
        )
