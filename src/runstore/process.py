"""The life of a process that serves or works: it starts, drains at a signal, and leaves."""

import asyncio
import errno
import importlib
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import structlog

from runstore.app import Runtime, build_app, check_exposure, open_runtime
from runstore.core.errors import AgentError, ConfigError
from runstore.http.server import BACKLOG, Server
from runstore.logs import flush_logs
from runstore.runtime import interpreter
from runstore.runtime.attempts.spans import flush_spans
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.teams import Teams
from runstore.runtime.loops.agent_loops import new_event_loop
from runstore.runtime.supervision.worker import call_in
from runstore.settings import Settings, use_folder
from runstore.threads import in_own_thread

OPEN_FILES = 65_536  # descriptors to have, if allowed; each connection takes one, and 1,024 are usual
FLUSH_OUTPUT_S = 1.0  # seconds at exit to flush standard output and standard error
RUNS_CHECK_S = 0.2  # seconds between two checks for active runs
KEEP_WITHIN_S = (
    300.0  # seconds after the start to wait for a moment without runs; then full collections stay long
)
FLUSH_SPANS_S = 1.0  # seconds at exit for a tracer provider to export its last spans

log = structlog.get_logger(__name__)


def serve(settings: Settings, listener: socket.socket | None = None) -> None:
    """Serve until a signal, then exit at once, even if threads of agents hang.

    Args:
        listener: a listening socket to use instead of the settings' host and port.

    Raises:
        ConfigError: the host is not loopback, or the port is taken.
    """
    interpreter.set_up()
    raise_open_files()
    settings.look_up_code()
    check_exposure(settings)
    with (
        listener or listen(settings.server.host, settings.server.port) as listener,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        runner.run(_serve(settings, listener))
        _leave()


def work(settings: Settings) -> None:
    """Run agents without HTTP until a signal, then exit at once, as `serve` does."""
    interpreter.set_up()
    raise_open_files()
    settings.look_up_code()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_work(settings))
        _leave()


def raise_open_files() -> None:
    """Raise the soft limit of open files up to OPEN_FILES, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen.

    Raises:
        ConfigError: the host cannot be bound, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        host.encode("idna")  # the look-up would fail, too, and leave an open socket behind
    except UnicodeError as error:
        raise ConfigError(f"cannot listen on {host!r}: {error}", setting="host") from error
    if "\0" in host:
        raise ConfigError(f"cannot listen on {host!r}: it has the character NUL", setting="host")
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        setting = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        message = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise ConfigError(message, setting=setting) from error


async def _serve(settings: Settings, listener: socket.socket) -> None:
    wrong: list[ConfigError] = []
    loop = asyncio.get_running_loop()

    def on_unusable(error: ConfigError) -> None:
        call_in(loop, lambda: leave(error))

    async with open_runtime(settings, on_unusable) as runtime:
        app = build_app(runtime, settings)
        drains: list[asyncio.Task[None]] = []

        def close() -> None:  # runs end while the connections do
            log.info("draining", runs=runtime.supervisor.running)
            runtime.feed.close()
            if runtime.runner is not None:
                runtime.runner.request_stop()
            drains.append(asyncio.create_task(runtime.supervisor.drain(settings.server.drain_s)))

        def leave(error: ConfigError) -> None:
            wrong.append(error)
            http.should_exit = True

        http = Server(
            app,
            closing=close,
            started=lambda: _on_started(listener, runtime, leave, console=settings.server.console),
        )
        await http.serve(sockets=[listener])
        await asyncio.gather(*drains)
    log.info("stopped")
    for error in wrong:
        raise error


async def _work(settings: Settings) -> None:
    use_folder(settings.folder)
    if not settings.server.agent_processes:
        await in_own_thread(_import_strands)  # import first: claimed runs would wait for it
        interpreter.keep_imports()
        await AgentCatalog(settings.agents, teams=Teams(settings.hierarchies)).check()
    wrong: list[ConfigError] = []
    loop = asyncio.get_running_loop()

    def on_unusable(error: ConfigError) -> None:
        wrong.append(error)
        call_in(loop, stop)

    async with open_runtime(settings, on_unusable) as runtime:
        stopping, stop = _signalled()
        log.info("working", worker_id=runtime.supervisor.worker_id, capacity=settings.server.capacity)
        threading.Thread(target=_prepare_processes, args=[runtime], daemon=True).start()
        await stopping
        log.info("draining", runs=runtime.supervisor.running)
    log.info("stopped")
    for error in wrong:
        raise error


def _signalled() -> "tuple[asyncio.Future[None], Callable[[], None]]":
    """Done at the first SIGTERM or SIGINT, or when called; the second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not signalled.done():
            signalled.set_result(None)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if signalled.done():
            os._exit(128 + number)
        loop.call_soon_threadsafe(settle)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return signalled, settle


def _on_started(
    listener: socket.socket, runtime: Runtime, leave: Callable[[ConfigError], None], *, console: bool
) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    log.info("listening", url=url)
    if console:
        log.info("console", url=f"{url}/console/")
    threading.Thread(target=_warm_up, args=[runtime, leave], daemon=True).start()


def _warm_up(runtime: Runtime, leave: Callable[[ConfigError], None]) -> None:
    """Prepare for the first run, and exit if the agents' code cannot be used."""
    if runtime.supervisor.shared is not None:
        return  # the processes that agents share do this
    try:
        _import_strands()
        if runtime.supervisor.runs_agents:
            asyncio.run(runtime.store.catalog.check())
    except ConfigError as error:
        leave(error)
    except OSError as error:  # too many open files, perhaps of clients that soon leave: runs try it again
        log.warning("agents_not_prepared", error=str(error))
        return
    except (MemoryError, RuntimeError) as error:  # there are too few bytes or threads
        reason = str(error) or "out of memory"
        leave(ConfigError(f"the agents' code cannot be imported: {reason}: see the limits of this process"))
        return
    _prepare_processes(runtime)
    _keep_imports(runtime)


def _keep_imports(runtime: Runtime) -> None:
    """Exempt the imports from full collections in a moment without runs, whose objects must not be exempt."""
    deadline = time.monotonic() + KEEP_WITHIN_S
    while runtime.supervisor.running:
        if time.monotonic() > deadline:
            return
        time.sleep(RUNS_CHECK_S)
    interpreter.keep_imports()


def _prepare_processes(runtime: Runtime) -> None:
    if runtime.supervisor.shared is None and runtime.store.catalog.needs_processes:
        with suppress(AgentError):  # the first run that needs a process then fails with it
            runtime.supervisor.processes.prepare()


def _import_strands() -> None:
    importlib.import_module("runstore.runtime.strands.agent")


def _leave() -> NoReturn:
    """End the process at once. The interpreter would wait for threads of agents."""
    flush_spans(FLUSH_SPANS_S)
    flush_logs()
    _flush_output()
    os._exit(0)


def _flush_output() -> None:
    """Flush the output of agents, within FLUSH_OUTPUT_S, as its reader may be blocked."""
    flushing = threading.Thread(target=lambda: (sys.stdout.flush(), sys.stderr.flush()), daemon=True)
    with suppress(RuntimeError):  # the machine allows no more threads
        flushing.start()
        flushing.join(FLUSH_OUTPUT_S)
