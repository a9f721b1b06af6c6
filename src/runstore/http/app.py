"""All routes on one page."""

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Lifespan

from runstore.http.agents import AgentRoutes
from runstore.http.errors import EXCEPTION_HANDLERS
from runstore.http.health import HealthRoutes
from runstore.http.hosts import LOOPBACK, HostCheck
from runstore.http.runs import RunRoutes
from runstore.store import RunStore


def build_http(
    store: RunStore,
    *,
    not_ready: Callable[[], str | None],
    lifespan: Lifespan[Starlette] | None = None,
    hosts: frozenset[str] = LOOPBACK,
) -> Starlette:
    """The API over a store. `hosts`: the names that it answers to."""
    agents, runs, health = AgentRoutes(store), RunRoutes(store), HealthRoutes(not_ready)
    app = Starlette(
        routes=[
            Route("/agents", agents.list),
            Route("/agents/{agent}/start", agents.start, methods=["POST"]),
            Route("/agents/{agent}/stream", agents.stream, methods=["POST"]),
            Route("/runs", runs.list),
            Route("/runs/{run_id}", runs.get),
            Route("/runs/{run_id}", runs.delete, methods=["DELETE"]),
            Route("/runs/{run_id}/events", runs.events),
            Route("/runs/{run_id}/events", runs.append, methods=["POST"]),
            Route("/runs/{run_id}/stream", runs.stream),
            Route("/runs/{run_id}/stop", runs.stop, methods=["POST"]),
            Route("/healthz", health.live),
            Route("/readyz", health.ready),
        ],
        middleware=[Middleware(HostCheck, hosts=hosts)],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app
