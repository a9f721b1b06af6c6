"""`serve --reload`: a watcher holds the listening socket; one server after another serves on it.

A new server imports the agents' code while the old one still serves, so broken code never takes over. Then
the watcher stops the old server, which hands its runs over, and the new one continues them. Connections in
between wait in the backlog of the socket, which stays open throughout.

Watcher and server talk over a socket pair: the server reports that its imports succeeded, and the watcher
answers when it may serve. End of file means that the other process has exited.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import structlog
from msgspec.structs import replace

from runstore.app import check_exposure
from runstore.cli.secrets import take_secrets
from runstore.core.errors import ConfigError
from runstore.process import listen, serve
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.teams import Teams
from runstore.runtime.process.fork_server import hide
from runstore.settings import Settings, use_folder

DRAIN_S = 0.5  # seconds, at most, for runs about to end; the others are handed over
LEAVE_S = 10.0  # seconds beyond its drain before a server that should exit is killed
CODE = (".py", ".toml")  # suffixes of files whose change restarts; agents may write other files there
INHERITED = "RUNSTORE_RELOAD_FDS"  # file descriptors of a server: the listening socket, the watcher's

log = structlog.get_logger(__name__)


def serve_reloading(settings: Settings) -> NoReturn:
    """Serve, and restart when the agents' code or configuration changes, without losing a run.

    Raises:
        ConfigError: as for `serve`; in a server process, also when an agent's code cannot be imported.
    """
    if inherited := os.environ.pop(INHERITED, None):
        _serve(settings, *(socket.socket(fileno=int(number)) for number in inherited.split(",")))
    check_exposure(settings)
    try:
        folder = settings.folder or Path.cwd()
    except OSError as error:
        raise ConfigError("--reload: the working directory was removed: change to another one") from error
    hide()  # agents' code runs in processes of the same user
    listener = listen(settings.server.host, settings.server.port)
    sys.exit(asyncio.run(_Watcher(folder, listener).run()))


# The server.


def _serve(settings: Settings, listener: socket.socket, watcher: socket.socket) -> NoReturn:
    sys.dont_write_bytecode = True  # two edits within a second may keep a file's size and time
    for inherited in (listener, watcher):
        inherited.set_inheritable(False)
    _import_agents(settings)
    watcher.sendall(b"!")
    if not watcher.recv(1):
        sys.exit(0)
    threading.Thread(target=_leave_after, args=[watcher], daemon=True).start()
    short = replace(settings.server, drain_s=min(settings.server.drain_s, DRAIN_S))
    serve(replace(settings, server=short), listener)
    raise AssertionError("serving ends by exiting the process")


def _import_agents(settings: Settings) -> None:
    use_folder(settings.folder)
    try:
        asyncio.run(AgentCatalog(settings.agents, teams=Teams(settings.hierarchies)).check(processes=True))
    except ConfigError as error:
        raise settings.located(error) from error


def _leave_after(watcher: socket.socket) -> None:
    watcher.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


# The watcher.


class _Server:
    """The watcher's view of a server process."""

    def __init__(self, process: Process, channel: socket.socket) -> None:
        self.process = process
        self._channel = channel
        self._stopping = False

    async def is_good(self) -> bool:
        """Whether the agents' code can be imported; False when the process exited instead."""
        return bool(await asyncio.get_running_loop().sock_recv(self._channel, 1))

    def begin(self) -> None:
        with suppress(OSError):  # a server that died while waiting is found as any other
            self._channel.send(b"!")

    def leave(self, number: int = signal.SIGTERM, *, again: bool = False) -> None:
        """Signal the process to exit, once; `again` signals it a second time, to exit at once."""
        if self.process.returncode is None and (again or not self._stopping):
            self._stopping = True
            self.process.send_signal(number)

    async def left(self, within_s: float | None = None) -> int:
        """Wait for the process to exit and return its exit code; kill it after `within_s` seconds."""
        try:
            code = await asyncio.wait_for(self.process.wait(), within_s)
        except TimeoutError:
            self.process.kill()
            code = await self.process.wait()
        self._channel.close()
        return code if code >= 0 else 128 - code


class _Watcher:
    """Starts a server for each change of the code."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self._folder = folder
        self._listener = listener
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._serving: _Server | None = None

    async def run(self) -> int:
        """Watch until a signal arrives; return the exit code of the last server."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        watching = asyncio.create_task(self._watch())
        log.info("watching", folder=str(self._folder))
        while not self._stopping.is_set():
            self._changed.clear()
            await self._replace()
            await self._until_news()
        watching.cancel()
        return await self._serving.left() if self._serving else 0

    async def _watch(self) -> None:
        from watchfiles import Change, DefaultFilter, awatch

        usual = DefaultFilter()

        def is_code(change: Change, path: str) -> bool:
            return path.endswith(CODE) and usual(change, path)

        async for changes in awatch(self._folder, watch_filter=is_code):
            log.info("reloading", changed=",".join(sorted({os.path.basename(path) for _, path in changes})))
            self._changed.set()

    def _on_signal(self, number: int) -> None:
        again = self._stopping.is_set()
        self._stopping.set()
        if self._serving is not None:
            self._serving.leave(number, again=again)

    async def _replace(self) -> None:
        """Start a server with the current code and let it take over from the serving one."""
        server = await self._start()
        if not await self._wait_for_imports(server):
            return
        if self._serving is not None:
            self._serving.leave()
            await self._serving.left(DRAIN_S + LEAVE_S)
            self._serving = None
        if self._stopping.is_set():
            server.leave()
            await server.left(LEAVE_S)
        else:
            self._serving = server
            server.begin()

    async def _start(self) -> _Server:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        fds = (self._listener.fileno(), theirs.fileno())
        arguments, secrets = take_secrets(sys.argv[1:])
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "runstore", *arguments,
                env={**os.environ, **secrets, INHERITED: "{},{}".format(*fds)}, pass_fds=fds,
                process_group=0,  # the watcher forwards a terminal's Ctrl-C
            )  # fmt: skip
        return _Server(process, ours)

    async def _wait_for_imports(self, server: _Server) -> bool:
        """Wait until the server has imported the agents' code.

        False if the import failed, the code changed again or the watcher is stopping.
        """
        good = asyncio.create_task(server.is_good())
        await _first(good, self._changed.wait(), self._stopping.wait())
        if good.done() and good.result():
            return True
        if good.done():
            log.error("reload_failed", exit_code=await server.left())
        else:
            good.cancel()
            server.leave(signal.SIGKILL)
            await server.left()
        return False

    async def _until_news(self) -> None:
        """Wait for a change or a signal. A server that exits by itself is logged.

        The next change starts another.
        """
        while not (self._changed.is_set() or self._stopping.is_set()):
            serving = self._serving
            left = [serving.process.wait()] if serving else []
            await _first(self._changed.wait(), self._stopping.wait(), *left)
            gone = serving is not None and serving.process.returncode is not None
            if serving and gone and not self._stopping.is_set():
                log.error("server_exited", exit_code=await serving.left())
                self._serving = None


async def _first(*waits: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> None:
    """Return when one of these is done. Tasks continue; coroutines are cancelled."""
    tasks = [wait if isinstance(wait, asyncio.Task) else asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for wait, task in zip(waits, tasks, strict=True):
        if wait is not task:
            task.cancel()
