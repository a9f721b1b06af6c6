"""Refuses requests for their origin or target: hosts, paths, and pages of other origins."""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from msgspec import Struct
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from runstore.http.errors import respond

MAX_AGE_S = 600  # seconds that a browser caches the permission
ANSWER_HEADERS = ("ETag", "Location", "Retry-After", "X-Run-Id", "X-Should-Retry")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Hosts(Struct, frozen=True):
    """Accepted host names; with `addresses` also every IP address, which no page can rebind."""

    names: frozenset[str] = LOOPBACK
    addresses: bool = False

    def __contains__(self, host: str) -> bool:
        return host in self.names or (self.addresses and _is_address(host))


def hosts_of(bound: str, allowed: Iterable[str], *, exposed: bool) -> Hosts:
    """The hosts of a server bound to `bound`: this machine, the bound address, and the `allowed` ones."""
    own = f"[{bound}]" if ":" in bound else bound
    return Hosts(LOOPBACK | {own.lower()} | {name.lower() for name in allowed}, addresses=exposed)


class HostCheck:
    """Refuses requests whose `Host` is not one of `hosts`."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"host"]
        host = _name(given[0] if given else b"")
        if len(given) < 2 and host in self._hosts:
            await self._app(scope, receive, send)
            return
        known = ", ".join(sorted(self._hosts.names))
        message = (
            f"this server does not answer to host {host[:100]!r}; its names are {known}, and the setting "
            "allowed_hosts adds more"
        )
        if len(given) > 1:
            message = "a request may have one `Host` header, not several"
        await respond(scope, 400, "unknown_host", message)(scope, receive, send)


def _name(value: bytes) -> str:
    host = value.decode("latin-1").strip().lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _is_address(host: str) -> bool:
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class PathCheck:
    """Refuses a path with the character NUL, which matches no name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and "\0" in scope["path"]:
            app = respond(scope, 400, "invalid_path", "the path must not hold the character NUL (%00)")
        await app(scope, receive, send)


def cors(origins: Sequence[str]) -> list[Middleware]:
    """The middleware that lets pages of these origins read the answers (CORS, WHATWG Fetch 3.2).

    It allows no cookies: a page must log in with a key or a ticket.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),  # clients add their own, such as OpenAI's X-Stainless-…
            expose_headers=ANSWER_HEADERS,
            max_age=MAX_AGE_S,
        )
    ]
