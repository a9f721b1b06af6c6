"""The server's side of processes that drive runs: has them forked, and kills them."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from runstore.core.errors import AgentError
from runstore.forks import forget, keep_from_forks
from runstore.runtime.process.fork_server import FAILED, ONE_RUN, READY, STATUS_BYTES

START_S = 30.0  # seconds for the fork server to import strands, and to fork a process
CLOSE_S = 2.0  # seconds for the fork server and all agents' processes to end
ENDED_S = 5.0  # seconds for a process to exit after its pipe has ended
FORK_SERVER = (
    "import sys; fd = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; "
    "from runstore.runtime.process.fork_server import main; main(fd)"
)


class Child:
    """A process that drives runs. `reader` and `writer` are our end of its pipe."""

    def __init__(
        self, control: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._control = control
        keep_from_forks(control)

    def kill(self) -> None:
        """Kill the process and its descendants. Returns at once."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def end(self) -> int | None:
        """Kill the process unless it has ended; return its exit code, or minus the signal that ended it.

        Returns None if its keeper does not report.
        """
        self.kill()
        receiving = asyncio.get_running_loop().sock_recv(self._control, STATUS_BYTES)
        try:
            status = await asyncio.wait_for(receiving, ENDED_S)
        except (OSError, ValueError):  # too late, or the socket was closed on the way
            return None
        return int.from_bytes(status, "big", signed=True) if status else None

    def close(self) -> None:
        """Kill the process if it is alive, and close its sockets."""
        forget(self._control)
        self._control.close()
        self.writer.close()


class _ForkServer:
    """The process that forks the others. Every method may block; `close` interrupts that."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(START_S)
        keep_from_forks(self._socket)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", FORK_SERVER, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Wait until it is ready. Raises OSError if it fails or does not start in time."""
        self._expect_word()

    def fork(self, kind: bytes) -> tuple[socket.socket, socket.socket]:
        """Our ends of a new process's sockets, control and events. Raises OSError if it cannot be started."""
        control, theirs = socket.socketpair()
        events, their_events = socket.socketpair()
        try:
            with theirs, their_events:
                socket.send_fds(self._socket, [kind], [theirs.fileno(), their_events.fileno()])
                self._expect_word()
        except BaseException:
            control.close()
            events.close()
            raise
        return control, events

    def close(self) -> None:
        """End it and all that it forked; kill it if it does not end in time."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its keepers notice and end, too
            self._process.wait()
        forget(self._socket)
        self._socket.close()

    def _expect_word(self) -> None:
        word = self._socket.recv(1)
        if word == FAILED:
            raise AgentError("no process can be started for the agent; the log says why")
        if word != READY:
            raise ConnectionError("the fork server has ended")


class Processes:
    """Starts processes that drive runs. Counts agents' own ones, and those of them that had to be killed."""

    def __init__(self) -> None:
        self.running = 0
        self.killed = 0
        self._children: set[Child] = set()
        self._lock = threading.Lock()  # serialises requests to the fork server; never taken on an event loop
        self._server: _ForkServer | None = None
        self._closed = False

    def prepare(self) -> None:
        """Start the fork server. The first call takes about a second, and blocks.

        Raises:
            AgentError: it cannot be started.
        """
        with self._lock, self._as_agent_error():
            self._have_server()

    async def fork(self, kind: bytes = ONE_RUN) -> Child:
        """A new process, which waits for `Open`.

        Args:
            kind: ONE_RUN for an agent's own process, MANY_RUNS for one that agents share.

        Raises:
            AgentError: it cannot be started.
        """
        forking = asyncio.ensure_future(asyncio.to_thread(self._fork, kind))
        try:
            control, events = await asyncio.shield(forking)
        except asyncio.CancelledError:
            forking.add_done_callback(_close_sockets)
            raise
        control.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=events)
        child = Child(control, reader, writer)
        self._children.add(child)
        self.running += kind == ONE_RUN
        return child

    def release(self, child: Child, *, kind: bytes = ONE_RUN) -> None:
        """Close a process's sockets, and kill it if it is alive."""
        self._children.discard(child)
        self.running -= kind == ONE_RUN
        child.close()

    def close(self) -> None:
        """Kill every process and wait until they are gone. No more can be started."""
        self._closed = True
        for child in list(self._children):
            child.kill()
        if self._server is not None:
            self._server.close()

    def _fork(self, kind: bytes) -> tuple[socket.socket, socket.socket]:
        with self._lock, self._as_agent_error():
            try:
                return self._have_server().fork(kind)
            except ConnectionError:  # it ended just after the check
                self._drop_server()
                return self._have_server().fork(kind)

    def _have_server(self) -> _ForkServer:
        if self._server is None or not self._server.alive:
            self._drop_server()
            self._check_open()
            self._server = _ForkServer()
            self._check_open()  # check again: from here on `close` sees this server
            self._server.wait_until_ready()
        return self._server

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionError("the server is closing")

    def _drop_server(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    @contextmanager
    def _as_agent_error(self) -> Iterator[None]:
        try:
            yield
        except AgentError:
            raise
        except BaseException as error:
            self._drop_server()  # it is stuck, so the next request starts a new one
            if isinstance(error, OSError):
                raise AgentError(f"no process can be started for the agent: {error}") from error
            raise


def _close_sockets(forking: "asyncio.Future[tuple[socket.socket, socket.socket]]") -> None:
    if not forking.cancelled() and forking.exception() is None:
        for one in forking.result():
            one.close()
