"""Which names this server answers to. A page of another origin cannot reach it by rebinding its own name."""

from starlette.types import ASGIApp, Receive, Scope, Send

from runstore.http.errors import error_response

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class HostCheck:
    """Refuses requests whose `Host` is not one of `hosts`."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] = LOOPBACK) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _host(scope) in self._hosts:
            await self._app(scope, receive, send)
            return
        known = ", ".join(sorted(self._hosts))
        message = f"this server does not answer to host {_host(scope)[:100]!r}; it is {known}"
        await error_response(400, "unknown_host", message)(scope, receive, send)


def _host(scope: Scope) -> str:
    value = next((value for name, value in scope["headers"] if name == b"host"), b"")
    host: str = value.decode("latin-1").strip().lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
