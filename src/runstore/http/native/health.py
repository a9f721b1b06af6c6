"""Whether the process lives, and whether it can do its work."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from starlette.responses import Response

from runstore.http.errors import error_response
from runstore.http.json import json_response
from runstore.http.openapi.schemas import json
from runstore.http.operations import Call, operation


class Health(Struct, frozen=True):
    status: Literal["ok"] = "ok"


class HealthRoutes:
    """`/healthz` and `/readyz`. `not_ready` says why the process cannot work now, or None."""

    def __init__(self, not_ready: Callable[[], str | None]) -> None:
        self._not_ready = not_ready

    @operation("GET", "/healthz", answers={200: json("it does", Health)}, strict=False, open=True)
    async def check_health(self, call: Call[None]) -> Response:
        """The process lives."""
        return json_response(Health())

    @operation(
        "GET",
        "/readyz",
        answers={200: json("it does", Health)},
        problems=((503, "not_ready"),),
        strict=False,
        open=True,
    )
    async def check_readiness(self, call: Call[None]) -> Response:
        """The log takes writes."""
        reason = self._not_ready()
        return error_response(503, "not_ready", reason) if reason else json_response(Health())
