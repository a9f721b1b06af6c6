"""The API: a list of surfaces, and the middleware around them."""

from collections.abc import Callable, Sequence
from secrets import token_bytes

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import Lifespan

from runstore.http.bodies import Bodies
from runstore.http.console.routes import Console, is_of_console
from runstore.http.errors import NATIVE_ERRORS, ErrorResponder, path_of
from runstore.http.executor.routes import EXECUTOR_ERRORS, HierarchyRoutes, TeamRunRoutes
from runstore.http.following import Following
from runstore.http.native.agents import AgentRoutes
from runstore.http.native.audit import AuditRoutes
from runstore.http.native.forks import ForkRoutes
from runstore.http.native.inputs import InputRoutes
from runstore.http.native.projections import NoProjections, Operated, ProjectionRoutes
from runstore.http.native.reports import ReportRoutes
from runstore.http.native.requests import RequestRoutes
from runstore.http.native.runs import RunRoutes
from runstore.http.native.server import Exposition, ListWorkers, ServerRoutes, no_metrics, no_workers
from runstore.http.native.streams import StreamRoutes
from runstore.http.native.tickets import TicketRoutes
from runstore.http.openai.chat import ChatRoutes
from runstore.http.openai.objects import OPENAI_ERRORS
from runstore.http.operations import Surface
from runstore.http.security.access import Access
from runstore.http.security.auth import Authentication, Authenticator
from runstore.http.security.hosts import HostCheck, Hosts, PathCheck, cors
from runstore.http.security.signing import TicketScope, TicketSigner
from runstore.http.streaming.subscribers import Subscribers
from runstore.projections.prices import Prices
from runstore.store.audit import AuditLog
from runstore.store.erasure import Erasure
from runstore.store.hierarchies import HierarchyStore
from runstore.store.reports import Reports
from runstore.store.runs import RunStore

SURFACES = (
    Surface("/v1", OPENAI_ERRORS, (ChatRoutes,)),
    Surface("/api/executor/v1", EXECUTOR_ERRORS, (HierarchyRoutes, TeamRunRoutes)),
    Surface(
        "",
        NATIVE_ERRORS,
        (
            AgentRoutes,
            RunRoutes,
            InputRoutes,
            RequestRoutes,
            ForkRoutes,
            StreamRoutes,
            TicketRoutes,
            AuditRoutes,
            ReportRoutes,
            ProjectionRoutes,
            ServerRoutes,
        ),
    ),
)
ERRORS = ErrorResponder({surface.prefix: surface.errors for surface in SURFACES})
OPEN_PATHS = frozenset(
    path for surface in SURFACES for path, operation in surface.operations if operation.open
)
TICKETED = [
    (compile_path(path)[0], operation.ticket)
    for surface in SURFACES
    for path, operation in surface.operations
    if operation.ticket is not None
]
DEFAULT_HOSTS = Hosts()
NO_PROJECTIONS = NoProjections()
NO_PRICES = Prices()


def build_http(
    store: RunStore,
    hierarchies: HierarchyStore,
    audit: AuditLog,
    reports: Reports,
    erasure: Erasure,
    *,
    not_ready: Callable[[], str | None],
    metrics: Exposition = no_metrics,
    workers: ListWorkers = no_workers,
    lifespan: Lifespan[Starlette] | None = None,
    hosts: Hosts = DEFAULT_HOSTS,
    authenticator: Authenticator | None = None,
    cors_origins: Sequence[str] = (),
    console: bool = True,
    projections: Operated = NO_PROJECTIONS,
    prices: Prices = NO_PRICES,
) -> Starlette:
    """The API over a store.

    Args:
        hosts: the host names that it accepts.
        cors_origins: origins whose pages may read the answers in a browser.
        authenticator: identifies the caller. None: everyone is the user `local`, an admin.
        console: serve the console, too.
        projections: whose state admins and auditors see, and that admins may rebuild.
        prices: of the configuration.
    """
    access, subscribers, bodies = Access(store, audit.reads), Subscribers(store), Bodies(store)
    signer = authenticator.tickets if authenticator else TicketSigner(token_bytes(32))
    following = Following(store, subscribers)
    handlers = (
        ChatRoutes(store, subscribers, bodies),
        HierarchyRoutes(store, hierarchies),
        TeamRunRoutes(store, hierarchies, access, following),
        AgentRoutes(store, access, subscribers),
        RunRoutes(store, access, following, erasure),
        InputRoutes(store, access),
        RequestRoutes(store, access),
        ForkRoutes(store, access),
        StreamRoutes(access, following),
        TicketRoutes(store, access, signer),
        AuditRoutes(audit, access, subscribers),
        ReportRoutes(reports, access),
        ProjectionRoutes(projections, prices),
        ServerRoutes(
            workers=workers,
            not_ready=not_ready,
            metrics=metrics,
            surfaces=SURFACES,
            authenticator=authenticator,
        ),
    )
    app = Starlette(
        routes=[
            *(route for surface in SURFACES for route in surface.routes(handlers, bodies)),
            *(Console().routes if console else []),
        ],
        middleware=[
            Middleware(HostCheck, hosts=hosts, errors=ERRORS),
            *cors(cors_origins),
            Middleware(PathCheck, errors=ERRORS),
            Middleware(
                Authentication,
                authenticator=authenticator,
                errors=ERRORS,
                is_open=lambda request: _is_open(request, console=console),
                scope_of=_scope_of,
            ),
        ],
        exception_handlers=ERRORS.handlers,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _is_open(request: Request, *, console: bool) -> bool:
    return path_of(request.scope) in OPEN_PATHS or (console and is_of_console(request))


def _scope_of(request: Request) -> TicketScope | None:
    """The stream that a request asks for, if it may have a ticket."""
    for pattern, scope in TICKETED:
        if found := pattern.fullmatch(path_of(request.scope)):
            return scope(found.groupdict(), request.query_params)
    return None
