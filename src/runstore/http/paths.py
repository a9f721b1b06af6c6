"""Paths that no route and no id can have."""

from starlette.types import ASGIApp, Receive, Scope, Send

from runstore.http.errors import ErrorResponder


class PathCheck:
    """Refuses a path with the character NUL, which nothing in it can hold."""

    def __init__(self, app: ASGIApp, errors: ErrorResponder) -> None:
        self._app = app
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "\0" in scope["path"]:
            message = "the path must not hold the character NUL (%00)"
            refusal = self._errors.respond(scope, 400, "invalid_path", message)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)
