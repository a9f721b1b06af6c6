"""The form of the surface's answers: `{"success": true, "data": …}`, or `false` with an error."""

from typing import Annotated, Any, Generic, TypeVar

from msgspec import Meta, Struct
from starlette.responses import Response

from runstore.http.errors import ErrorDetail, ErrorForm
from runstore.http.json import json_response
from runstore.http.operations import ResponseSpec
from runstore.http.requests import Schema
from runstore.http.schemas import MAX_PAGE, json

T = TypeVar("T")
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE)]


class Failure(Struct, frozen=True):
    """The request failed."""

    success: Annotated[bool, Meta(extra_json_schema={"const": False})]
    error: ErrorDetail


EXECUTOR_ERRORS = ErrorForm(Failure, lambda status, error: Failure(False, error))


class Success(Struct, Generic[T], frozen=True):
    """The request succeeded."""

    success: Annotated[bool, Meta(extra_json_schema={"const": True})]
    data: T


def success(
    description: str, data: Any, headers: dict[str, Schema] | None = None, run_id: str = ""
) -> ResponseSpec:
    return json(description, Success[data], headers, run_id)


def answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_response(Success(True, data), status, headers)
