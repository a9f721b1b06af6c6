"""The surfaces, which are told apart by their paths, and the form of what the executor answers."""

from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct
from starlette.types import Scope

EXECUTOR = "/api/executor/v1"
OPENAI = "/v1"
STREAM = "/stream"  # of several runs

T = TypeVar("T")


class Success(Struct, Generic[T], frozen=True):
    """What was asked for."""

    success: Annotated[bool, Meta(extra_json_schema={"const": True})]
    data: T


def run_id_of(text: str) -> str:
    """The run of `RUN_ID` or `RUN_ID:SEQ`, as a stream of several runs names it."""
    return text.partition(":")[0].lower()


def path_of(scope: Scope) -> str:
    """The request's path, below where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
