"""Whether the process lives, and whether it can do its work."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from runstore.http.errors import error_response
from runstore.http.json import json_response


class Health(Struct, frozen=True):
    status: Literal["ok"] = "ok"


class HealthRoutes:
    """`/healthz` and `/readyz`. `not_ready` says why the process cannot work now, or None."""

    def __init__(self, not_ready: Callable[[], str | None]) -> None:
        self._not_ready = not_ready

    async def live(self, request: Request) -> Response:
        return json_response(Health())

    async def ready(self, request: Request) -> Response:
        reason = self._not_ready()
        return error_response(503, "not_ready", reason) if reason else json_response(Health())
