"""A hierarchy as it comes in. What is wrong with it is told with its place: `$.teams[1].workers[0].name`."""

import re
from typing import Any

import msgspec
from starlette.requests import Request

from runstore.core.hierarchy import Hierarchy, Team, Worker
from runstore.core.limits import Limits
from runstore.http.errors import BadRequest
from runstore.http.requests import read_body

ITEMS: dict[str, Any] = {"teams": Team, "workers": Worker, "tools": str}
PLACE = re.compile(r"(.*) - at `(\$\S*)`", re.S)


async def read_hierarchy(request: Request, limits: Limits) -> Hierarchy:
    """The hierarchy in the request's body.

    Raises:
        BadRequest, LimitExceeded: as of `read_body`; `field` is the place of what is wrong.
    """
    body: Any = await read_body(request, dict, limits)
    try:
        return msgspec.convert(body, Hierarchy)
    except msgspec.ValidationError as error:
        said = PLACE.fullmatch(str(error))
        message, place = said.groups() if said else (str(error), "$")
        field = _numbered(place, body)
        raise BadRequest(f"{field}: {message}", code="invalid_body", field=field) from error


def _numbered(place: str, value: Any) -> str:
    """A place of msgspec's, which writes `[...]` for an index, with those of the items that are wrong."""
    first, *rest = place.split("[...]")
    done, part = "", first
    for following in rest:
        for name in part.split(".")[1:]:
            value = value[name]
        index = next(n for n, item in enumerate(value) if not _fits(item, ITEMS[name]))
        value = value[index]
        done, part = f"{done}{part}[{index}]", following
    return done + part


def _fits(value: Any, cls: Any) -> bool:
    try:
        msgspec.convert(value, cls)
    except msgspec.ValidationError:
        return False
    return True
