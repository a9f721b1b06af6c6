"""JSON answers, and types of fields in bodies, for decoding and for the OpenAPI document."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.responses import Response

RunId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
HierarchyId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339, UTC
Seq = Annotated[int, Meta(ge=1)]
Position = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]

ENCODED_AT_ONCE = 50  # items of a list between two turns of other requests

_encoder = msgspec.json.Encoder()


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encoder.encode(content), status, headers, "application/json")


def page_response(
    items: Iterable[bytes], following: int | None, headers: Mapping[str, str] | None = None
) -> Response:
    """A page of items that are JSON already. `following`: its `next`."""
    body = b'{"data":[%b],"next":%b}' % (b",".join(items), _encoder.encode(following))
    return Response(body, headers=headers, media_type="application/json")


async def json_list(items: Iterable[Any]) -> msgspec.Raw:
    """Encode many items as one list for `json_response`, without holding the event loop for all of them."""
    parts: list[bytes] = []
    for item in items:
        parts.append(_encoder.encode(item))
        if len(parts) % ENCODED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return msgspec.Raw(b"[%b]" % b",".join(parts))
