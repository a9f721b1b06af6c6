"""The surfaces, which are told apart by their paths, and the form of the executor's answers."""

from typing import Any

from starlette.types import Scope

EXECUTOR = "/api/executor/v1"
OPENAI = "/v1"


def path_of(scope: Scope) -> str:
    """The request's path, below where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def failure_body(error: Any) -> dict[str, Any]:
    return {"success": False, "error": error}


def success_body(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}
