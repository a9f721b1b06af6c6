"""The description of the API."""

import hashlib

import msgspec
from starlette.responses import Response

from runstore.http.openapi.document import Surfaces, document
from runstore.http.openapi.schemas import ETAG, JSON, NOT_MODIFIED, TEXT, json
from runstore.http.operations import Call, Parameter, operation
from runstore.http.requests import has_already
from runstore.http.security.auth import Authenticator


class OpenApiRoutes:
    """`/openapi.json`. It needs no key, since it describes the API and no run."""

    def __init__(self, surfaces: Surfaces, authenticator: Authenticator | None) -> None:
        self._surfaces = surfaces
        self._authenticator = authenticator

    @operation(
        "GET",
        "/openapi.json",
        parameters=(Parameter("If-None-Match", TEXT, "the ETag of an earlier answer", "header"),),
        answers={200: json("it", {"type": "object"}, ETAG), 304: NOT_MODIFIED},
        open=True,
    )
    async def describe_api(self, call: Call[None]) -> Response:
        """This document."""
        needs_login = self._authenticator is not None and await self._authenticator.required()
        server = {"url": call.request.scope.get("root_path", "") or "/"}
        body = msgspec.json.encode({**document(self._surfaces, needs_login=needs_login), "servers": [server]})
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        if has_already(call.request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=JSON)
