"""A route, declared once: its parameters, its answers, and its handler.

A class of handlers is a list of operations, one for each decorated method.
"""

from collections.abc import Awaitable, Callable, Mapping
from inspect import cleandoc
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from runstore.core import errors
from runstore.core.new_run import NewRun, RunOptions
from runstore.http.bodies import Bodies, Body
from runstore.http.requests import Parameter, Schema, read_idempotency_key, read_traceparent
from runstore.http.security.signing import TicketScope
from runstore.http.security.users import Login, User, login_of

# An error, or its status and code. Without a code, it is the run's own, which its agent may choose.
Problem = type[errors.RunstoreError] | tuple[int, str | None]
ScopeOf = Callable[[Mapping[str, str], QueryParams], TicketScope]  # path's and query's parameters → scope
B = TypeVar("B", covariant=True)


class ResponseSpec(Struct, frozen=True, kw_only=True):
    """A successful answer.

    Args:
        content: a struct or a schema for each media type.
        run_id: the place of a run's id in the answer, for use by other operations.
    """

    description: str
    content: dict[str, Any] = {}
    headers: dict[str, Schema] = {}
    run_id: str = ""


class Call(Generic[B]):
    """A request to an operation. `query`: an object of the operation's class."""

    def __init__(self, request: Request, query: B, body: Body[B] | None, bodies: Bodies) -> None:
        self.request = request
        self.query = query
        self._body = body
        self._bodies = bodies

    @property
    def login(self) -> Login:
        return login_of(self.request)

    @property
    def user(self) -> User:
        return self.login.user

    def new_run(self, agent: str, input: Any, options: RunOptions, **more: Any) -> NewRun:
        """A run that this call starts. Its login and its headers add the rest; `more`: fields of NewRun."""
        return NewRun(
            agent=agent,
            input=input,
            user_id=self.user.user_id,
            key_id=self.login.key_id,
            idempotency_key=read_idempotency_key(self.request),
            traceparent=read_traceparent(self.request),
            **{name: getattr(options, name) for name in RunOptions.__struct_fields__},
            **more,
        )

    async def body(self) -> B:
        """The request's body; see `Body.read`. A handler reads it only when it needs it."""
        if self._body is None:
            raise TypeError("the operation declares no body")
        return await self._body.read(self.request, self._bodies)


Handler = Callable[[Any, Call[B]], Awaitable[Response]]


async def _undeclared(handlers: Any, call: "Call[Any]") -> Response:
    raise TypeError("this operation decorates no handler")


class Operation(Struct, Generic[B], frozen=True):
    """One method of one route; it decorates its handler.

    The handler's name is the operation's id, and its docstring the summary.

    Args:
        path: relative to the prefix of its surface.
        parameters: those in the path and the headers.
        query: the class of the parameters in the query. An operation has these or a body.
        body: None if the operation reads none.
        problems: the errors of this operation, besides those that all operations of its kind share.
        strict: refuse unknown parameters in the query.
        ticket: the stream that a request asks for, if it may have a ticket instead of a key.
        open: needs no login, as it reveals nothing about any run.
        reads: it changes nothing, though its method could.
        handler: called with its object and the call.
        tag: its group in the OpenAPI document: that of its class.
    """

    method: str
    path: str
    answers: dict[int, ResponseSpec] = {}
    parameters: tuple[Parameter, ...] = ()
    query: type[B] | None = None
    body: Body[B] | None = None
    problems: tuple[Problem, ...] = ()
    strict: bool = True
    ticket: ScopeOf | None = None
    open: bool = False
    reads: bool = False
    handler: Handler[B] = _undeclared
    tag: str = ""

    def __call__(self, handler: Handler[B]) -> "Operation[B]":
        return replace(self, handler=handler)

    @property
    def id(self) -> str:
        return self.handler.__name__

    @property
    def summary(self) -> str:
        return cleandoc(self.handler.__doc__ or "").rstrip(".")

    @property
    def changes(self) -> bool:
        """Whether it changes anything, which auditors may not."""
        return self.method != "GET" and not self.reads


class Handlers(Protocol):
    """A class of operations. `tag`: their group in the OpenAPI document."""

    tag: str


def operations_of(cls: type[Handlers]) -> list[Operation[Any]]:
    """The operations of a class of handlers, in the order of their declaration.

    The class names their group of the OpenAPI document: `tag`.
    """
    return [replace(each, tag=cls.tag) for each in vars(cls).values() if isinstance(each, Operation)]
