"""JSON answers."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

ENCODED_AT_ONCE = 50  # items of a list: then other requests get their turn

_encoder = msgspec.json.Encoder()


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encoder.encode(content), status, headers, "application/json")


async def json_list(items: Iterable[Any]) -> msgspec.Raw:
    """Many items as one list, for `json_response`. The event loop is not held for all of them."""
    parts: list[bytes] = []
    for item in items:
        parts.append(_encoder.encode(item))
        if len(parts) % ENCODED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return msgspec.Raw(b"[%b]" % b",".join(parts))
