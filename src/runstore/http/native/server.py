"""Routes about the server itself: workers, health, metrics, and the description of the API."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from msgspec import Struct
from starlette.responses import Response

from runstore import __version__
from runstore.http.errors import Forbidden, error_response
from runstore.http.json import Count, json_response
from runstore.http.openapi import Surfaces, document
from runstore.http.operations import Call, Operation, ResponseSpec
from runstore.http.requests import Parameter, has_already
from runstore.http.schemas import ETAG, JSON, NOT_MODIFIED, TEXT, json
from runstore.http.security.auth import Authenticator
from runstore.store.workers import WorkerRecord

ReadDatabase = Callable[[], Awaitable["DatabaseRecord"]]
Exposition = Callable[[str], tuple[bytes, str]]  # `Accept` header → the metrics, and their media type
ListWorkers = Callable[[], Awaitable[list[WorkerRecord]]]


class Health(Struct, frozen=True):
    status: Literal["ok"] = "ok"


class Me(Struct, frozen=True):
    """The user of a request.

    `roles`: `admin` and `auditor`. `key_id`: of the API key, or null with another login. `login`: `none` if
    the server asks for none, so that everyone is the user `local`. `version`: of the server.
    """

    user_id: str
    roles: list[str]
    workspaces: list[str]
    key_id: str | None
    login: Literal["none", "key", "other"]
    version: str


class DatabaseRecord(Struct, frozen=True):
    """The database that holds the log. `bytes`: what it takes on its disk, by its own account."""

    kind: Literal["sqlite", "postgresql", "mysql"]
    bytes: Count


class WorkerPage(Struct, frozen=True):
    """All workers that have not left, oldest first."""

    data: list[WorkerRecord]


class ServerRoutes:
    """The routes about the server itself.

    Args:
        not_ready: returns the reason why the process cannot work now, or None.
        metrics: the metrics for an `Accept` header.
        surfaces: the surfaces that the OpenAPI document describes.
    """

    tag = "server"

    def __init__(
        self,
        *,
        workers: ListWorkers,
        database: ReadDatabase,
        not_ready: Callable[[], str | None],
        metrics: Exposition,
        surfaces: Surfaces,
        authenticator: Authenticator,
    ) -> None:
        self._list_workers = workers
        self._read_database = database
        self._not_ready = not_ready
        self._expose = metrics
        self._surfaces = surfaces
        self._authenticator = authenticator

    @Operation("GET", "/me", answers={200: json("the user", Me)})
    async def read_me(self, call: Call[None]) -> Response:
        """The user of this request, and what that user may do."""
        user, key_id = call.user, call.login.key_id
        login: Literal["none", "key", "other"] = "other"
        if key_id is not None:
            login = "key"
        elif not call.login.known:
            login = "none"
        me = Me(user.user_id, sorted(user.roles), sorted(user.workspaces), key_id, login, __version__)
        return json_response(me, headers={"Cache-Control": "no-store"})

    @Operation("GET", "/workers", answers={200: json("the workers", WorkerPage)}, problems=(Forbidden,))
    async def list_workers(self, call: Call[None]) -> Response:
        """List the workers of this database, oldest first; for admins and auditors."""
        if not call.user.reads_all:
            raise Forbidden("the workers are for admins and auditors")
        return json_response(WorkerPage(await self._list_workers()))

    @Operation(
        "GET",
        "/database",
        answers={200: json("the database", DatabaseRecord)},
        problems=(Forbidden,),
    )
    async def read_database(self, call: Call[None]) -> Response:
        """Which database holds the log, and its size; for admins and auditors."""
        if not call.user.reads_all:
            raise Forbidden("the size of the database is for admins and auditors")
        return json_response(await self._read_database(), headers={"Cache-Control": "no-store"})

    @Operation(
        "GET", "/healthz", answers={200: json("the process is alive", Health)}, strict=False, open=True
    )
    async def check_health(self, call: Call[None]) -> Response:
        """Check that the process is alive."""
        return json_response(Health())

    @Operation(
        "GET",
        "/readyz",
        answers={200: json("the log takes writes", Health)},
        problems=((503, "not_ready"),),
        strict=False,
        open=True,
    )
    async def check_readiness(self, call: Call[None]) -> Response:
        """Check that the log takes writes."""
        reason = self._not_ready()
        return error_response(503, "not_ready", reason) if reason else json_response(Health())

    @Operation(
        "GET",
        "/metrics",
        answers={
            200: ResponseSpec(
                description="the metrics",
                content={"text/plain": TEXT, "application/openmetrics-text": TEXT},
                headers={"Cache-Control": {"const": "no-store"}},
            )
        },
        problems=(Forbidden,),
        strict=False,
    )
    async def read_metrics(self, call: Call[None]) -> Response:
        """The metrics in Prometheus' text format or in OpenMetrics; for admins and auditors."""
        if not call.user.reads_all:
            raise Forbidden("the metrics are for admins and auditors")
        body, media_type = self._expose(call.request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    @Operation(
        "GET",
        "/openapi.json",
        parameters=(Parameter("If-None-Match", TEXT, "the ETag of an earlier answer", "header"),),
        answers={200: json("the document", {"type": "object"}, ETAG), 304: NOT_MODIFIED},
        open=True,
    )
    async def describe_api(self, call: Call[None]) -> Response:
        """This API as an OpenAPI document."""
        needs_login = await self._authenticator.required()
        server = {"url": call.request.scope.get("root_path", "") or "/"}
        body = msgspec.json.encode({**document(self._surfaces, needs_login=needs_login), "servers": [server]})
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        if has_already(call.request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=JSON)
