"""The composition root: the only file that knows every concrete class."""

import asyncio
import errno
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import structlog
from msgspec import Struct
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from starlette.applications import Starlette

from runstore import keys, migrations
from runstore.core.errors import AgentError, ConfigError
from runstore.core.ports import Leases
from runstore.eventlog.dialects import FORMS, Dialect, open_dialect
from runstore.eventlog.feed import MemoryFeed
from runstore.eventlog.purge import Purge, Purgeable, PurgeCount
from runstore.eventlog.queries import read_evolving
from runstore.eventlog.sql import RebuildSource, SqlEventLog
from runstore.hierarchies import HierarchyStore
from runstore.http.app import build_http
from runstore.http.auth import Authenticator
from runstore.http.hosts import hosts_of
from runstore.http.login_function import LoginFunction
from runstore.http.server import BACKLOG, Server
from runstore.http.signing import TicketSigner
from runstore.logs import flush_logs
from runstore.metrics import Metrics
from runstore.projections.rebuild import Difference, Progress, rebuild
from runstore.projections.runs import RunList
from runstore.runtime.agents import AgentCatalog
from runstore.runtime.fork_server import hide
from runstore.runtime.leases import FileLeases
from runstore.runtime.loops import new_event_loop
from runstore.runtime.spans import flush_spans
from runstore.runtime.supervisor import Supervisor
from runstore.runtime.teams import Teams
from runstore.settings import ServerSettings, Settings, use_folder
from runstore.store import RunStore
from runstore.workers import HeartbeatLeases, ListedLeases

GIL_SWITCH_S = (
    0.0005  # how long a busy agent may hold up the writer; at Python's 5 ms tokens wait for seconds
)
FLUSH_OUTPUT_S = 1.0  # for standard output and standard error, when the process leaves
FLUSH_SPANS_S = 1.0  # for a tracer provider to hand out its last spans when the process leaves

log = structlog.get_logger(__name__)


class OpenLog(Struct, frozen=True):
    """An open database, without anything that runs agents. `leases`: under which a program records runs."""

    store: RunStore
    hierarchies: HierarchyStore
    feed: MemoryFeed
    event_log: SqlEventLog
    leases: Leases


class Runtime(OpenLog, frozen=True):
    """The parts of a running process that others need."""

    supervisor: Supervisor
    metrics: Metrics
    authenticator: Authenticator


def open_database(url: str, *, create: bool = True, hurried: bool = False) -> Dialect:
    """Open a database and bring its schema up to this release.

    Args:
        create: also if it has none yet.
        hurried: give up statements that take long, as a process has to that serves.

    Raises:
        ConfigError: the URL is wrong, the server too old, or there is no log in it and `create` is False.
        SchemaMismatch: the database is newer than this release.
        LogUnavailable: it cannot be reached, or is read-only, locked, corrupt, or the disk is full.
    """
    try:
        dialect = open_dialect(make_url(url), hurried=hurried)
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"database URL {url!r}: {error}; use {FORMS}", setting="database_url") from error
    if not create and dialect.file is not None and not dialect.file.exists():
        raise ConfigError(f"database URL {url!r}: there is no file {dialect.file}")
    with _told_as_unavailable(dialect), dialect.engine.connect() as connection:
        dialect.check(connection)
        before = migrations.current_version(connection)
        if before is None and not create:
            raise ConfigError(f"database {dialect.place}: it holds no log; `runstore migrate` makes one")
        connection.rollback()
        if before != migrations.HEAD:
            with dialect.migrating(connection):  # two starting processes do not both migrate
                before = migrations.upgrade(connection)
    if before != migrations.HEAD:
        log.info("migrated", database=dialect.place, before=before or "empty", now=migrations.HEAD)
    return dialect


@contextmanager
def _told_as_unavailable(dialect: Dialect) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if unavailable := dialect.unavailable(error):
            raise unavailable from error
        raise


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[OpenLog]:
    """Open the database and start the writer, for a program that has no agents."""
    opened = _open(settings)
    try:
        yield opened
    finally:
        await opened.leases.release()
        await opened.event_log.close()


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Open the database, start the writer and the supervisor; drain and close them at the end."""
    use_folder(settings.folder)
    if settings.runs_code:
        hide()  # from what it is sent
    server = settings.server
    opened = _open(settings)
    store, feed, event_log, leases = opened.store, opened.feed, opened.event_log, opened.leases
    supervisor = Supervisor(
        event_log,
        feed,
        store.catalog,
        # Apart: what a program records under the other is no run that we have lost.
        _new_leases(event_log, server, capacity=server.capacity),
        capacity=server.capacity if server.worker else 0,
        grace_s=server.cancel_grace_s,
    )
    try:
        metrics = Metrics(event_log, feed, supervisor)
        authenticator = await _open_authenticator(server, event_log)
        # Nothing is awaited from here to the server's taking of the signals: no run is begun that a SIGTERM
        # would then end as a crash.
        async with supervisor:
            yield Runtime(
                store, opened.hierarchies, feed, event_log, leases, supervisor, metrics, authenticator
            )
            await supervisor.drain(server.drain_s)
    finally:
        await leases.release()
        await event_log.close()


def _open(settings: Settings) -> OpenLog:
    dialect = open_database(settings.server.database_url, hurried=True)
    feed = MemoryFeed()
    event_log = SqlEventLog(dialect, feed, [RunList(read_evolving)])
    teams = Teams(settings.hierarchies)
    catalog = AgentCatalog(settings.agents, run_timeout_s=settings.limits.run_timeout_s, teams=teams)
    store = RunStore(
        event_log, feed, catalog, limits=settings.limits, heartbeat_s=settings.server.heartbeat_s
    )
    hierarchies = HierarchyStore(event_log, teams, per_user=settings.limits.hierarchies_per_user)
    return OpenLog(store, hierarchies, feed, event_log, _new_leases(event_log, settings.server, capacity=0))


def _new_leases(event_log: SqlEventLog, server: ServerSettings, *, capacity: int) -> Leases:
    """A file is on one machine, whose locks tell who is dead; elsewhere workers have to give signs."""
    if (file := event_log.file) is not None:
        return ListedLeases(FileLeases(Path(f"{file}.workers")), event_log, capacity=capacity)
    return HeartbeatLeases(event_log, lease_s=server.lease_s, capacity=capacity)


@contextmanager
def write_to(url: str, *, create: bool = True) -> Iterator[Connection]:
    """A transaction on a database, brought up to this release; committed unless there was an error."""
    dialect = open_database(url, create=create)
    try:
        with dialect.engine.connect() as connection:
            dialect.begin_write(connection, alone=True)
            yield connection
            connection.commit()
    except Exception as error:
        raise dialect.unavailable(error) or error from error
    finally:
        dialect.engine.dispose()


@contextmanager
def read_from(url: str) -> Iterator[Connection]:
    """A connection to a database that holds a log."""
    dialect = open_database(url, create=False)
    try:
        with _told_as_unavailable(dialect), dialect.engine.connect() as connection:
            yield connection
    finally:
        dialect.engine.dispose()


def serve(settings: Settings, listener: socket.socket | None = None) -> None:
    """Serve until told to stop; then leave at once, whatever agents' threads still hang.

    Args:
        listener: where to accept connections, instead of the settings' host and port.

    Raises:
        ConfigError: the host is not loopback, or the port is taken.
    """
    sys.setswitchinterval(GIL_SWITCH_S)
    check_exposure(settings)
    listener = listener or listen(settings.server.host, settings.server.port)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(settings, listener))
        _leave()


def work(settings: Settings) -> None:
    """Run agents, without HTTP, until told to stop; then leave at once, as `serve` does."""
    sys.setswitchinterval(GIL_SWITCH_S)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_work(settings))
        _leave()


def _leave() -> NoReturn:
    """End the process, whatever threads of agents are still at work: the interpreter would wait for them."""
    flush_spans(FLUSH_SPANS_S)
    flush_logs()
    _flush_output()
    os._exit(0)


def _flush_output() -> None:
    """What agents have printed; not at any price: whoever reads it may stand still."""
    flushing = threading.Thread(target=lambda: (sys.stdout.flush(), sys.stderr.flush()), daemon=True)
    flushing.start()
    flushing.join(FLUSH_OUTPUT_S)


def build_app(runtime: Runtime, server: ServerSettings) -> Starlette:
    """The HTTP API over an open runtime. Its streams end when the runtime's feed is closed."""
    return build_http(
        runtime.store,
        runtime.hierarchies,
        not_ready=lambda: _not_ready(runtime, server.max_abandoned_threads),
        metrics=runtime.metrics.expose,
        authenticator=runtime.authenticator,
        hosts=hosts_of(server.host, server.allowed_hosts, exposed=server.exposed),
        cors_origins=server.cors_origins,
    )


def _not_ready(runtime: Runtime, max_abandoned_threads: int) -> str | None:
    if unavailable := runtime.event_log.unavailable:
        return str(unavailable)
    abandoned = runtime.supervisor.abandoned_threads
    if abandoned > max_abandoned_threads:
        return (
            f"stuck agents hold {abandoned:,} threads, more than max_abandoned_threads = "
            f"{max_abandoned_threads:,}; restart the server"
        )
    return None


async def _serve(settings: Settings, listener: socket.socket) -> None:
    async with open_runtime(settings) as runtime:
        app = build_app(runtime, settings.server)
        drains: list[asyncio.Task[None]] = []

        def close() -> None:  # runs come to their end while the connections do
            log.info("draining", runs=runtime.supervisor.running)
            runtime.feed.close()
            drains.append(asyncio.create_task(runtime.supervisor.drain(settings.server.drain_s)))

        http = Server(app, closing=close, started=lambda: _on_started(listener, runtime))
        await http.serve(sockets=[listener])
        await asyncio.gather(*drains)
    log.info("stopped")


async def _work(settings: Settings) -> None:
    async with open_runtime(settings) as runtime:
        stopping = _signalled()
        log.info("working", worker_id=runtime.supervisor.worker_id, capacity=settings.server.capacity)
        threading.Thread(target=_warm_up, args=[runtime], daemon=True).start()
        await stopping
        log.info("draining", runs=runtime.supervisor.running)
    log.info("stopped")


def _signalled() -> "asyncio.Future[None]":
    """Done at the first SIGTERM or SIGINT; the second one ends the process at once."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not told.done():
            told.set_result(None)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if told.done():
            os._exit(128 + number)
        loop.call_soon_threadsafe(settle)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return told


def _on_started(listener: socket.socket, runtime: Runtime) -> None:
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    threading.Thread(target=_warm_up, args=[runtime], daemon=True).start()


def _warm_up(runtime: Runtime) -> None:
    """Have ready what the first run would wait for."""
    importlib.import_module("runstore.runtime.strands_agent")
    if runtime.store.catalog.needs_processes:
        with suppress(AgentError):  # then the first run that needs one fails with it
            runtime.supervisor.processes.prepare()


def check_exposure(settings: Settings) -> None:
    """Others than this machine, and pages of any origin, are let in only if it can be told who they are."""
    server = settings.server
    if server.authenticate is not None or not (server.exposed or "*" in server.cors_origins):
        return
    with write_to(server.database_url) as connection:
        if keys.any_keys(connection):
            return
    advice = "or make a key: runstore keys create --user NAME"
    if server.exposed and settings.runs_code:
        setting = "code"
        wrong = f"host {server.host!r}: without API keys code of anybody would run; use 127.0.0.1"
    elif server.exposed:
        setting = "host"
        wrong = f"host {server.host!r}: without API keys the server binds loopback only; use 127.0.0.1"
    else:
        setting = "cors_origins"
        wrong = "cors_origins '*': without API keys any web page could use the server; name the origins"
    raise ConfigError(f"{wrong}, {advice}", setting=setting)


async def _open_authenticator(server: ServerSettings, event_log: SqlEventLog) -> Authenticator:
    with write_to(server.database_url) as connection:
        signer = TicketSigner(keys.ticket_secret(connection))
    authenticator = Authenticator(
        event_log.query,
        signer,
        function=LoginFunction.load(server.authenticate) if server.authenticate else None,
        exposed=server.exposed,
    )
    await authenticator.required()  # while the database is known to answer
    return authenticator


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen.

    Raises:
        ConfigError: the host cannot be bound, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        setting = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        message = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise ConfigError(message, setting=setting) from error


def rebuild_runs(url: str, progress: Progress, *, swap: bool) -> Difference:
    """Rebuild the run list from the log, or with `swap=False` only compare."""
    dialect = open_database(url, create=False)
    with _told_as_unavailable(dialect):
        return rebuild(RebuildSource(dialect), RunList(read_evolving), progress, swap=swap)


def survey_purge(url: str, before: int) -> Purgeable:
    """What `purge_runs` would remove."""
    with _purge(url, before, lambda count: None) as purge:
        return purge.survey()


def purge_runs(url: str, before: int, progress: Callable[[PurgeCount], None]) -> PurgeCount:
    """Remove the events of the runs that ended before a time: UTC, milliseconds since 1970."""
    with _purge(url, before, progress) as purge:
        return purge.run(by="retention")


@contextmanager
def _purge(url: str, before: int, progress: Callable[[PurgeCount], None]) -> Iterator[Purge]:
    dialect = open_database(url, create=False)
    purge = Purge(dialect, [RunList(read_evolving)], before, progress)
    try:
        with _told_as_unavailable(dialect):
            yield purge
    finally:
        purge.close()


def drop_runs(url: str) -> int:
    """Empty the run list; returns how many runs it had. The log is untouched."""
    dialect = open_database(url, create=False)
    with _told_as_unavailable(dialect), dialect.engine.connect() as connection:
        dialect.begin_write(connection, alone=True)
        rows = RunList(read_evolving).drop(connection)
        connection.commit()
    return rows
