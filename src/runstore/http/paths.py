"""Paths that no route and no id can have."""

from starlette.types import ASGIApp, Receive, Scope, Send

from runstore.http.errors import error_for


class PathCheck:
    """Refuses a path with the character NUL, which nothing in it can hold."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "\0" in scope["path"]:
            refusal = error_for(scope, 400, "invalid_path", "the path must not hold the character NUL (%00)")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
