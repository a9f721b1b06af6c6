"""A surface: a protocol over the log, with its operations and the form of its errors.

A request finds its surface by the path's prefix, then its operation. Only there the login is asked for, since
the operation says whether it needs one.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from runstore.http.bodies import Bodies
from runstore.http.errors import FORM, ErrorForm, MethodNotAllowed, NothingThere, path_of
from runstore.http.operations import Call, Handlers, Operation, operations_of
from runstore.http.query import Query
from runstore.http.security.access import check_changes
from runstore.http.security.auth import TICKET, Authenticator
from runstore.http.security.signing import TicketScope
from runstore.http.security.users import login_of


class Surface(Struct, frozen=True, eq=False):
    """A protocol: the operations below a prefix, and the form of its errors.

    Args:
        errors: also for requests below the prefix that match no operation.
        handlers: classes of operations.
        lenient: drop what clients add when they join a base URL and a path: empty segments, and the prefix
            once more.
    """

    prefix: str
    errors: ErrorForm
    handlers: tuple[type[Handlers], ...]
    lenient: bool = False

    @property
    def operations(self) -> list[tuple[str, Operation[Any]]]:
        """Each operation with its full path."""
        return [(self.prefix + each.path, each) for cls in self.handlers for each in operations_of(cls)]

    def place(self, path: str) -> str | None:
        """The path that a request means; None: it is not below the prefix."""
        if self.lenient:
            path = _joined(self.prefix, path)
        return path if path.startswith(f"{self.prefix}/") else None

    def routes(
        self, handlers: Iterable[object], bodies: Bodies, authenticator: Authenticator
    ) -> list[BaseRoute]:
        """A route for each path, answered by the given handlers."""
        of_class = {type(each): each for each in handlers}
        paths = defaultdict[str, list[Endpoint]](list)
        for cls in self.handlers:
            for operation in operations_of(cls):
                endpoint = Endpoint(operation, of_class[cls], bodies, authenticator)
                paths[self.prefix + operation.path].append(endpoint)
        return [Route(path, Resource(found, authenticator)) for path, found in paths.items()]


def _joined(prefix: str, path: str) -> str:
    first, *rest = [segment for segment in path.split("/") if segment] or [""]
    own = prefix.strip("/")
    if first != own:
        return path
    while rest[:1] == [own]:
        rest = rest[1:]
    return "/".join(["", first, *rest]) if rest else path


class FindSurface:
    """Notes the form of errors of a request's surface, and corrects the path for a lenient one."""

    def __init__(self, app: ASGIApp, surfaces: Sequence[Surface]) -> None:
        self._app = app
        self._surfaces = surfaces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = path_of(scope)
            for surface in self._surfaces:
                if (place := surface.place(path)) is not None:
                    scope[FORM] = surface.errors
                    if place != path:
                        scope = {**scope, "path": scope.get("root_path", "") + place}
                    break
        await self._app(scope, receive, send)


class Endpoint:
    """An operation of an object of handlers."""

    def __init__(
        self, operation: Operation[Any], handlers: object, bodies: Bodies, authenticator: Authenticator
    ) -> None:
        self.operation = operation
        self._handlers = handlers
        self._bodies = bodies
        self._authenticator = authenticator
        self._query: type[Query] = operation.query or Query
        self._others = (TICKET,) if operation.ticket is not None else ()

    async def answer(self, request: Request) -> Response:
        operation = self.operation
        if not operation.open:
            await self._authenticator.admit(request.scope, self._stream_of_ticket(request))
        if operation.changes:
            check_changes(login_of(request).user)
        query = self._query(request, self._others) if operation.strict else None
        return await operation.handler(self._handlers, Call(request, query, operation.body, self._bodies))

    def _stream_of_ticket(self, request: Request) -> TicketScope | None:
        """The stream that the request's ticket must be for; None without a ticket."""
        stream_of, query = self.operation.ticket, request.query_params
        return stream_of(request.path_params, query) if stream_of and TICKET in query else None


class Resource:
    """Answers the requests to a path, each with the operation of its method."""

    def __init__(self, endpoints: Iterable[Endpoint], authenticator: Authenticator) -> None:
        self._endpoints = {each.operation.method: each for each in endpoints}
        if "GET" in self._endpoints:
            self._endpoints["HEAD"] = self._endpoints["GET"]
        self._open = any(each.operation.open for each in self._endpoints.values())
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        endpoint = self._endpoints.get(request.method)
        if endpoint is None:
            if not self._open:
                await self._authenticator.admit(scope)
            raise MethodNotAllowed(request, self._endpoints)
        response = await endpoint.answer(request)
        await response(scope, receive, send)


class Nothing(BaseRoute):
    """The last route: without a login, no answer reveals whether a path exists."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return Match.FULL if scope["type"] == "http" else Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._authenticator.admit(scope)
        raise NothingThere(Request(scope))
