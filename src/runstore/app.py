"""The composition root: the only file that knows every concrete class."""

import asyncio
import importlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
from msgspec import Struct
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from runstore import migrations
from runstore.core.errors import ConfigError
from runstore.eventlog.dialects import SqliteDialect, open_dialect
from runstore.eventlog.feed import MemoryFeed
from runstore.eventlog.queries import read_evolving
from runstore.eventlog.sql import RebuildSource, SqlEventLog
from runstore.http.app import build_http
from runstore.http.hosts import LOOPBACK
from runstore.http.server import BACKLOG, Server
from runstore.projections.rebuild import Difference, Progress, rebuild
from runstore.projections.runs import RunList
from runstore.runtime.agents import AgentCatalog
from runstore.runtime.leases import FileLeases
from runstore.runtime.supervisor import Supervisor
from runstore.settings import Settings, use_folder
from runstore.store import RunStore

GIL_SWITCH_S = (
    0.0005  # how long a busy agent may hold up the writer; at Python's 5 ms tokens wait for seconds
)
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")

log = structlog.get_logger(__name__)


class Runtime(Struct, frozen=True):
    """The parts of a running process that others need."""

    store: RunStore
    feed: MemoryFeed
    event_log: SqlEventLog
    supervisor: Supervisor


def open_database(url: str, *, create: bool = True) -> SqliteDialect:
    """Open a database and bring its schema up to this release.

    Raises:
        ConfigError: the URL is wrong, or there is no database and `create` is False.
        SchemaMismatch: the database is newer than this release.
        LogUnavailable: it is read-only, locked, corrupt, or the disk is full.
    """
    try:
        dialect = open_dialect(make_url(url))
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"database URL {url!r}: {error}; use sqlite:///FILE") from error
    if not create and not dialect.path.exists():
        raise ConfigError(f"database URL {url!r}: there is no file {dialect.path}")
    with _told_as_unavailable(dialect), dialect.engine.connect() as connection:
        dialect.begin_write(connection)  # two starting processes do not both migrate
        before = migrations.upgrade(connection)
        connection.commit()
    if before != migrations.HEAD:
        log.info("migrated", database=str(dialect.path), before=before or "empty", now=migrations.HEAD)
    return dialect


@contextmanager
def _told_as_unavailable(dialect: SqliteDialect) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if unavailable := dialect.unavailable(error):
            raise unavailable from error
        raise


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Open the database, start the writer and the supervisor; drain and close them at the end."""
    use_folder(settings.folder)
    server = settings.server
    dialect = open_database(server.database_url)
    feed = MemoryFeed()
    event_log = SqlEventLog(dialect, feed, [RunList(read_evolving)])
    catalog = AgentCatalog(settings.agents)
    store = RunStore(event_log, feed, catalog, heartbeat_s=server.heartbeat_s)
    leases = FileLeases(Path(f"{dialect.path}.workers"))
    supervisor = Supervisor(
        event_log, feed, catalog, leases, capacity=server.capacity, grace_s=server.cancel_grace_s
    )
    try:
        async with supervisor:
            yield Runtime(store, feed, event_log, supervisor)
            await supervisor.drain(server.drain_s)
    finally:
        await event_log.close()


def serve(settings: Settings) -> None:
    """Serve until told to stop; then leave at once, whatever agents' threads still hang.

    Raises:
        ConfigError: the host is not loopback, or the port is taken.
    """
    sys.setswitchinterval(GIL_SWITCH_S)
    listener = _listen(settings.server.host, settings.server.port)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, listener))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


async def _serve(settings: Settings, listener: socket.socket) -> None:
    async with open_runtime(settings) as runtime:
        app = build_http(
            runtime.store,
            not_ready=lambda: str(runtime.event_log.unavailable) if runtime.event_log.unavailable else None,
            hosts=LOOPBACK,
        )
        drains: list[asyncio.Task[None]] = []

        def close() -> None:  # runs come to their end while the connections do
            log.info("draining", runs=runtime.supervisor.running)
            runtime.feed.close()
            drains.append(asyncio.create_task(runtime.supervisor.drain(settings.server.drain_s)))

        server = Server(app, closing=close, started=lambda: _on_started(listener))
        await server.serve(sockets=[listener])
        await asyncio.gather(*drains)
    log.info("stopped")


def _on_started(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    threading.Thread(
        target=importlib.import_module, args=["runstore.runtime.strands_agent"], daemon=True
    ).start()


def _listen(host: str, port: int) -> socket.socket:
    if host not in LOOPBACK_HOSTS:
        raise ConfigError(f"host {host!r}: without API keys the server binds loopback only; use 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def rebuild_runs(url: str, progress: Progress, *, swap: bool) -> Difference:
    """Rebuild the run list from the log, or with `swap=False` only compare."""
    dialect = open_database(url, create=False)
    with _told_as_unavailable(dialect):
        return rebuild(RebuildSource(dialect), RunList(read_evolving), progress, swap=swap)


def drop_runs(url: str) -> int:
    """Empty the run list; returns how many runs it had. The log is untouched."""
    dialect = open_database(url, create=False)
    with _told_as_unavailable(dialect), dialect.engine.connect() as connection:
        dialect.begin_write(connection)
        rows = RunList(read_evolving).drop(connection)
        connection.commit()
    return rows
