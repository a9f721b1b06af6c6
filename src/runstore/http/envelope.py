"""Each surface has a form of its own for its answers; errors are put into it by the request's path."""

from typing import Any

from starlette.types import Scope

EXECUTOR = "/api/executor/v1"


def path_of(scope: Scope) -> str:
    """The request's path, below where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def error_body(path: str, error: dict[str, Any]) -> dict[str, Any]:
    return {"success": False, "error": error} if path.startswith(f"{EXECUTOR}/") else {"error": error}


def success_body(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}
