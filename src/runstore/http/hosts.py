"""Which names this server answers to. A page of another origin cannot reach it by rebinding its own name."""

from collections.abc import Iterable
from ipaddress import ip_address

from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from runstore.http.envelope import path_of
from runstore.http.errors import error_response

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Hosts(Struct, frozen=True):
    """Names that are answered to; with `addresses` also every IP address, which no page can rebind."""

    names: frozenset[str] = LOOPBACK
    addresses: bool = False

    def __contains__(self, host: str) -> bool:
        return host in self.names or (self.addresses and _is_address(host))


def hosts_of(bound: str, allowed: Iterable[str], *, exposed: bool) -> Hosts:
    """What a server bound to `bound` answers to: this machine, what it is bound to, and what is `allowed`."""
    own = f"[{bound}]" if ":" in bound else bound
    return Hosts(LOOPBACK | {own.lower()} | {name.lower() for name in allowed}, addresses=exposed)


class HostCheck:
    """Refuses requests whose `Host` is not one of `hosts`."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _host(scope) in self._hosts:
            await self._app(scope, receive, send)
            return
        known = ", ".join(sorted(self._hosts.names))
        message = f"this server does not answer to host {_host(scope)[:100]!r}; it is {known}"
        response = error_response(400, "unknown_host", message, path=path_of(scope))
        await response(scope, receive, send)


def _host(scope: Scope) -> str:
    value = next((value for name, value in scope["headers"] if name == b"host"), b"")
    host: str = value.decode("latin-1").strip().lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _is_address(host: str) -> bool:
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
