"""The composition root: chooses and joins the concrete classes behind the ports."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict
from starlette.applications import Starlette

from runstore.core.errors import ConfigError
from runstore.database.database import Database
from runstore.database.exposure import check_files
from runstore.database.opening import dialect_of, open_database, opened_database, read_from
from runstore.eventlog.queries import read_last_seqs
from runstore.eventlog.sql import SqlEventLog
from runstore.eventlog.sql_store import InlineProjection
from runstore.feed.head_poll import HeadPoll
from runstore.feed.memory import MemoryFeed
from runstore.http.app import Served, build_http
from runstore.http.errors import UNAVAILABLE
from runstore.http.native.server import DatabaseRecord
from runstore.http.security.auth import Authenticator
from runstore.http.security.hosts import hosts_of
from runstore.http.security.login_function import LoginFunction
from runstore.http.security.signing import TicketSigner
from runstore.maintenance.projections import Projections
from runstore.maintenance.purge import Found, Purge, Purgeable, PurgeCount
from runstore.metrics import Metrics
from runstore.projections.inline import InlineProjections, check_inline
from runstore.projections.projection import Projection
from runstore.projections.registry import find_projections
from runstore.projections.runner import ProjectionRunner, Waking
from runstore.projections.runs import RunList
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.teams import Teams
from runstore.runtime.leases.file_locks import FileLeases
from runstore.runtime.leases.heartbeats import HeartbeatLeases, ListedLeases
from runstore.runtime.leases.leases import Leases
from runstore.runtime.process.fork_server import hide
from runstore.runtime.process.messages import Open
from runstore.runtime.supervision.supervisor import Shared, Supervisor
from runstore.settings import URLS, ServerSettings, Settings, use_folder
from runstore.settings.secrets import warn_of_open_secrets
from runstore.store import keys
from runstore.store.audit import AuditLog
from runstore.store.erasure import Erasure
from runstore.store.hierarchies import HierarchyStore
from runstore.store.reports.reports import Reports
from runstore.store.runs import NO_SLOTS, RunStore, Slots
from runstore.store.workers import read_workers

if TYPE_CHECKING:
    from runstore.feed.redis.feed import RedisFeed


POLL_S = 0.5  # seconds between two polls for other processes' events
LOST_POLL_S = 2.0  # seconds between two polls with Redis, which may lose a wake-up


class _Base(Struct, frozen=True):
    """The open database that the stores work on. `inline`: the projections that are part of an append."""

    feed: "MemoryFeed | RedisFeed"
    database: Database
    event_log: SqlEventLog
    catalog: AgentCatalog
    teams: Teams
    leases: Leases
    projections: Sequence[Projection]
    inline: Sequence[InlineProjection]
    runner: ProjectionRunner | None


class OpenLog(Struct, frozen=True):
    """An open database without agents. `leases`: for runs that the program records itself."""

    store: RunStore
    hierarchies: HierarchyStore
    audit: AuditLog
    reports: Reports
    feed: "MemoryFeed | RedisFeed"
    database: Database
    event_log: SqlEventLog
    leases: Leases
    projections: Projections
    runner: ProjectionRunner | None
    erasure: Erasure


class Runtime(OpenLog, frozen=True):
    """The parts of a running process that others need."""

    supervisor: Supervisor
    metrics: Metrics
    authenticator: Authenticator


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[OpenLog]:
    """Open the database and start the writer, for a program without agents."""
    async with _open(settings, keeps=bool(settings.projections)) as base:
        yield _stores(base, settings, NO_SLOTS)


@asynccontextmanager
async def open_runtime(
    settings: Settings, on_unusable: Callable[[ConfigError], None] = lambda error: None
) -> AsyncIterator[Runtime]:
    """Open the database, start the writer and the supervisor; drain and close them at the end.

    Args:
        on_unusable: called, on another thread, if the code of an agent cannot be used by a process that
            agents share.
    """
    use_folder(settings.folder)
    if settings.runs_code:
        hide()  # submitted code may run as the same user
    server = settings.server
    async with _open(settings, keeps=server.projections) as base:
        supervisor = Supervisor(
            base.event_log,
            base.feed,
            base.catalog,
            # These leases are separate: runs that the program records itself are not lost runs of this
            # worker.
            _new_leases(base.database, server, capacity=server.capacity),
            capacity=server.capacity if server.worker else 0,
            grace_s=server.cancel_grace_s,
            shared=_shared(settings) if server.agent_processes else None,
            on_unusable=on_unusable,
        )
        opened = _stores(base, settings, supervisor)
        metrics = Metrics(opened.event_log, opened.feed, supervisor, opened.runner)
        authenticator = await _open_authenticator(server, opened.database)
        # Nothing is awaited between here and the server's installing of its signal handlers. Otherwise a
        # SIGTERM could end a started run as a crash.
        async with supervisor:
            yield Runtime(
                **asdict(opened), supervisor=supervisor, metrics=metrics, authenticator=authenticator
            )
            if opened.runner is not None:
                opened.runner.request_stop()  # so that its transaction ends while the runs drain
            await supervisor.drain(server.drain_s)


def _shared(settings: Settings) -> Shared:
    """The processes that agents share, with this process's module search path."""
    server = settings.server
    opening = Open(settings.agents, sys.path, settings.hierarchies)
    return Shared(server.agent_processes, opening, server.max_abandoned_threads)


@asynccontextmanager
async def _open(settings: Settings, *, keeps: bool) -> AsyncIterator[_Base]:
    """Open what the stores work on.

    Args:
        keeps: whether this process keeps asynchronous projections up to date.
    """
    server = settings.server
    projections = settings.find_projections()
    local = MemoryFeed()
    shared = _redis_feed(server.redis_url, server.redis_prefix, local) if server.redis_url else None
    feed = shared or local
    with closing(dialect_of(server.database_url)) as dialect:  # before the file of another user is opened
        url_files = {name: getattr(server, f"{name}_file") for name in URLS}
        check_files(dialect, url_files, shared=server.shared_files, runs_code=settings.runs_code)
    database = open_database(server.database_url, read_url=server.database_read_url, statement_timeout=True)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        warn_of_open_secrets(settings)
        stack.enter_context(shared or nullcontext())
        runner = ProjectionRunner(database, projections) if keeps else None
        publisher = Waking(feed, runner.wake) if runner is not None else feed
        inline = _inline(database, projections)
        event_log = SqlEventLog(database, publisher, inline)
        stack.push_async_callback(event_log.close)
        every_s = LOST_POLL_S if shared else POLL_S
        polling = HeadPoll(local, lambda run_ids: database.query(read_last_seqs, run_ids), every_s=every_s)
        await stack.enter_async_context(polling)
        teams = Teams(settings.hierarchies)
        catalog = catalog_of(settings, teams)
        leases = _new_leases(database, server, capacity=0)
        stack.push_async_callback(leases.release)
        await stack.enter_async_context(runner or nullcontext())
        yield _Base(feed, database, event_log, catalog, teams, leases, projections, inline, runner)


def _stores(base: _Base, settings: Settings, slots: Slots) -> OpenLog:
    """`slots`: of the worker in this process."""
    database, log, feed = base.database, base.event_log, base.feed
    limits, heartbeat_s = settings.limits, settings.server.heartbeat_s
    return OpenLog(
        store=RunStore(
            database, log, feed, base.catalog, slots=slots, limits=limits, heartbeat_s=heartbeat_s
        ),
        hierarchies=HierarchyStore(database, base.teams, per_user=limits.hierarchies_per_user),
        audit=AuditLog(database, log, feed, heartbeat_s=heartbeat_s),
        reports=Reports(database),
        feed=feed,
        database=database,
        event_log=log,
        leases=base.leases,
        projections=Projections(database, base.projections),
        runner=base.runner,
        erasure=Erasure(database, base.projections, base.inline),
    )


def catalog_of(settings: Settings, teams: Teams | None = None) -> AgentCatalog:
    """The agents of a configuration, which may import modules of its folder."""
    use_folder(settings.folder)
    return AgentCatalog(
        settings.agents,
        run_timeout_s=settings.limits.run_timeout_s,
        teams=teams or Teams(settings.hierarchies),
    )


def _inline(database: Database, projections: Sequence[Projection]) -> list[InlineProjection]:
    """The projections that are applied with every append."""
    users = [projection for projection in projections if projection.inline and not projection.in_schema]
    with database.connect() as connection:
        check_inline(connection, users)
    return [RunList(), InlineProjections(users)] if users else [RunList()]


def _redis_feed(url: str, prefix: str, local: MemoryFeed) -> "RedisFeed":
    # Imported here, as importing a client of Redis takes a good part of a start, and most servers use none.
    from runstore.feed.redis.check import check_redis
    from runstore.feed.redis.feed import RedisFeed

    check_redis(url, prefix=prefix)
    return RedisFeed(url, prefix=prefix, local=local)


def _new_leases(database: Database, server: ServerSettings, *, capacity: int) -> Leases:
    """Leases by file locks for a database on this machine; otherwise by heartbeats of the workers."""
    if (file := database.file) is not None:
        return ListedLeases(FileLeases(Path(f"{file}.workers")), database, capacity=capacity)
    return HeartbeatLeases(database, lease_s=server.lease_s, capacity=capacity)


def build_app(runtime: Runtime, settings: Settings) -> Starlette:
    """The HTTP API over an open runtime. Its streams end when the runtime's feed is closed."""
    server = settings.server
    served = Served(
        store=runtime.store,
        hierarchies=runtime.hierarchies,
        audit=runtime.audit,
        reports=runtime.reports,
        erasure=runtime.erasure,
        projections=runtime.projections,
        prices=settings.prices,
        authenticator=runtime.authenticator,
        workers=lambda: runtime.database.query(read_workers),
        database=lambda: _read_database(runtime.database),
        metrics=runtime.metrics.expose,
        not_ready=lambda: _not_ready(runtime, server.max_abandoned_threads),
    )
    hosts = hosts_of(server.host, server.allowed_hosts, exposed=server.exposed)
    return build_http(served, hosts=hosts, cors_origins=server.cors_origins, console=server.console)


async def _read_database(database: Database) -> DatabaseRecord:
    """Read as lists are, with their time and places: a server looks at each of its files."""
    size = await database.query_list(database.dialect.size)
    return DatabaseRecord(database.dialect.name, size)


def _not_ready(runtime: Runtime, max_abandoned_threads: int) -> str | None:
    if runtime.event_log.unavailable:
        return UNAVAILABLE
    shared = runtime.supervisor.shared
    if shared is not None and not shared.available:
        return "no agent process is ready: starting or not answering"
    abandoned = runtime.supervisor.abandoned_threads
    if abandoned > max_abandoned_threads:
        return (
            f"stuck agents hold {abandoned:,} threads, more than max_abandoned_threads = "
            f"{max_abandoned_threads:,}; restart the server"
        )
    return None


def check_exposure(settings: Settings) -> None:
    """Refuse to serve other machines, and pages of any origin, without a way to authenticate clients."""
    server = settings.server
    if server.authenticate is not None or not (server.exposed or "*" in server.cors_origins):
        return
    with read_from(server.database_url, create=True, upgrade=True) as connection:
        if keys.any_keys(connection):
            return
    advice = "or create a key: runstore keys create --user NAME"
    if server.exposed and settings.runs_code:
        setting = "code"
        wrong = f"host {server.host!r}: without API keys anyone's code would run; use 127.0.0.1"
    elif server.exposed:
        setting = "host"
        wrong = f"host {server.host!r}: without API keys the server binds loopback only; use 127.0.0.1"
    else:
        setting = "cors_origins"
        wrong = "cors_origins '*': without API keys any web page could use the server; name the origins"
    raise ConfigError(f"{wrong}, {advice}", setting=setting)


async def _open_authenticator(server: ServerSettings, database: Database) -> Authenticator:
    authenticator = Authenticator(
        database,
        TicketSigner(await database.change_exclusively(keys.ticket_secret)),
        function=LoginFunction.load(server.authenticate) if server.authenticate else None,
        exposed=server.exposed,
    )
    await authenticator.required()  # while the database is known to be available
    return authenticator


def survey_purge(url: str, found: Found) -> Purgeable:
    """The runs and events that `purge_runs` would remove."""
    with _purge(url, lambda count: None) as purge:
        return purge.survey(found)


def purge_runs(url: str, found: Found, progress: Callable[[PurgeCount], None]) -> PurgeCount:
    """Remove the events of the runs that are found."""
    with _purge(url, progress) as purge:
        return purge.run(found, by="retention")


@contextmanager
def opened_erasure(settings: Settings) -> Iterator[Erasure]:
    """Erases persons from the database of a configuration."""
    projections = settings.find_projections()
    with opened_database(settings.server.database_url) as database:
        yield Erasure(database, projections, _inline(database, projections))


@contextmanager
def _purge(url: str, progress: Callable[[PurgeCount], None]) -> Iterator[Purge]:
    with (
        opened_database(url) as database,
        closing(Purge(database, _inline(database, find_projections()), progress)) as purge,
    ):
        yield purge
