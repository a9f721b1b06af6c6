"""The API: a list of surfaces, and the middleware around them."""

from collections.abc import Callable, Sequence

from msgspec import Struct
from starlette.applications import Starlette
from starlette.middleware import Middleware

from runstore.core.errors import RunstoreError
from runstore.http.bodies import Bodies
from runstore.http.console.routes import ConsoleRoutes
from runstore.http.errors import NATIVE_ERRORS, answer_defect, answer_error
from runstore.http.executor.answers import EXECUTOR_ERRORS
from runstore.http.executor.hierarchies import HierarchyRoutes
from runstore.http.executor.runs import TeamRunRoutes
from runstore.http.following import RunStreams
from runstore.http.native.agents import AgentRoutes
from runstore.http.native.audit import AuditRoutes
from runstore.http.native.deletion import DeletionRoutes
from runstore.http.native.events import EventRoutes
from runstore.http.native.forks import ForkRoutes
from runstore.http.native.inputs import InputRoutes
from runstore.http.native.model_requests import RequestRoutes
from runstore.http.native.projections import ProjectionRoutes
from runstore.http.native.reports import ReportRoutes
from runstore.http.native.runs import RunRoutes
from runstore.http.native.server import Exposition, ListWorkers, ReadDatabase, ServerRoutes
from runstore.http.native.steps import StepRoutes, fold_threads
from runstore.http.native.streams import StreamRoutes
from runstore.http.native.tickets import TicketRoutes
from runstore.http.native.transcripts import TranscriptRoutes
from runstore.http.openai.chat import ChatRoutes
from runstore.http.openai.objects import OPENAI_ERRORS
from runstore.http.security.access import Access
from runstore.http.security.auth import Authenticator
from runstore.http.security.hosts import HostCheck, Hosts, PathCheck, cors
from runstore.http.streaming.subscribers import Subscribers
from runstore.http.surfaces import FindSurface, Nothing, Surface
from runstore.maintenance.projections import Projections
from runstore.projections.prices import Prices
from runstore.store.audit import AuditLog
from runstore.store.erasure import Erasure
from runstore.store.hierarchies import HierarchyStore
from runstore.store.reports.reports import Reports
from runstore.store.runs import RunStore

SURFACES = (
    Surface("/v1", OPENAI_ERRORS, (ChatRoutes,), lenient=True),
    Surface("/api/executor/v1", EXECUTOR_ERRORS, (HierarchyRoutes, TeamRunRoutes)),
    Surface(
        "",
        NATIVE_ERRORS,
        (
            AgentRoutes,
            RunRoutes,
            EventRoutes,
            DeletionRoutes,
            InputRoutes,
            RequestRoutes,
            ForkRoutes,
            StepRoutes,
            TranscriptRoutes,
            StreamRoutes,
            TicketRoutes,
            AuditRoutes,
            ReportRoutes,
            ProjectionRoutes,
            ServerRoutes,
        ),
    ),
)
CONSOLE = Surface("", NATIVE_ERRORS, (ConsoleRoutes,))


class Served(Struct, frozen=True, kw_only=True):
    """The parts of a process that the API makes available.

    Args:
        not_ready: returns the reason why the process cannot work now, or None.
        metrics: the metrics for an `Accept` header.
        projections: whose state admins and auditors see, and that admins may rebuild.
        prices: of the configuration.
    """

    store: RunStore
    hierarchies: HierarchyStore
    audit: AuditLog
    reports: Reports
    erasure: Erasure
    projections: Projections
    prices: Prices
    authenticator: Authenticator
    workers: ListWorkers
    database: ReadDatabase
    metrics: Exposition
    not_ready: Callable[[], str | None]


def build_http(served: Served, *, hosts: Hosts, cors_origins: Sequence[str], console: bool) -> Starlette:
    """The API of a process.

    Args:
        hosts: the host names that it accepts.
        cors_origins: origins whose pages may read the answers in a browser.
        console: serve the console, too.
    """
    bodies, authenticator = Bodies(served.store), served.authenticator
    surfaces = (*SURFACES, CONSOLE) if console else SURFACES
    handlers = [*_handlers(served, bodies), *([ConsoleRoutes(authenticator)] if console else [])]
    routes = [each for surface in surfaces for each in surface.routes(handlers, bodies, authenticator)]
    app = Starlette(
        routes=[*routes, Nothing(authenticator)],
        middleware=[
            Middleware(FindSurface, surfaces=surfaces),
            Middleware(HostCheck, hosts=hosts),
            *cors(cors_origins),
            Middleware(PathCheck),
        ],
        exception_handlers={RunstoreError: answer_error, Exception: answer_defect},
    )
    app.router.redirect_slashes = False
    return app


def _handlers(served: Served, bodies: Bodies) -> Sequence[object]:
    """An object of each class that the surfaces name."""
    store, hierarchies = served.store, served.hierarchies
    access, subscribers = Access(store, served.audit.reads), Subscribers(store)
    following, folds = RunStreams(store, subscribers), fold_threads()
    return (
        ChatRoutes(store, subscribers, bodies),
        HierarchyRoutes(hierarchies),
        TeamRunRoutes(store, hierarchies, access, following),
        AgentRoutes(store, access, subscribers),
        RunRoutes(store, access, following),
        EventRoutes(store, access, following),
        DeletionRoutes(store, access, served.erasure),
        InputRoutes(store, access),
        RequestRoutes(store, access),
        ForkRoutes(store, access),
        StepRoutes(store, access, served.prices, folds),
        TranscriptRoutes(store, access, folds),
        StreamRoutes(access, following),
        TicketRoutes(store, access, served.authenticator.tickets),
        AuditRoutes(served.audit, access, subscribers),
        ReportRoutes(served.reports, access),
        ProjectionRoutes(served.projections, served.prices),
        ServerRoutes(
            workers=served.workers,
            database=served.database,
            not_ready=served.not_ready,
            metrics=served.metrics,
            surfaces=SURFACES,
            authenticator=served.authenticator,
        ),
    )
