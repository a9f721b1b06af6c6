"""The server's side of agents' processes: has them forked, and gets rid of them."""

import asyncio
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from runstore.core.errors import AgentError
from runstore.runtime.fork_server import STATUS_BYTES

START_S = 30.0  # for the fork server to import what agents need
CLOSE_S = 2.0  # for it and all processes to end
FORK_SERVER = (
    "import sys; fd = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; "
    "from runstore.runtime.fork_server import main; main(fd)"
)


class Child:
    """An agent's process. `reader`, `writer`: what it and we say to each other."""

    def __init__(
        self, control: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._control = control

    def kill(self) -> None:
        """Kill the process and whatever it has started. Returns at once."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    async def ended(self) -> int:
        """Wait for its end: its exit code, or minus the signal that ended it."""
        told = await asyncio.get_running_loop().sock_recv(self._control, STATUS_BYTES)
        return int.from_bytes(told, "big", signed=True) if told else -9

    def close(self) -> None:
        """Kill it, if it lives, and let go of it."""
        self._control.close()
        self.writer.close()


class Processes:
    """Starts agents' processes, and counts those that had to be killed."""

    def __init__(self) -> None:
        self.killed = 0
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    @property
    def running(self) -> int:
        """How many there are."""
        return len(self._children)

    def prepare(self) -> None:
        """Have the fork server ready. It takes a second the first time, and blocks as long.

        Raises:
            AgentError: it cannot be started.
        """
        with self._lock:
            if self._server is None or self._server.poll() is not None:
                self._start()

    async def fork(self) -> Child:
        """A new process, which waits to be told what to do.

        Raises:
            AgentError: there is none to be had.
        """
        await asyncio.to_thread(self.prepare)
        control, theirs = socket.socketpair()
        events, child_events = socket.socketpair()
        with theirs, child_events:
            try:
                self._request(theirs, child_events)
            except OSError as error:
                control.close()
                events.close()
                raise AgentError(f"no process can be started for the agent: {error}") from error
        control.setblocking(False)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=events)
        except BaseException:
            control.close()
            events.close()
            raise
        child = Child(control, reader, writer)
        self._children.add(child)
        return child

    def release(self, child: Child) -> None:
        """Let go of a process; if it lives, it is killed."""
        self._children.discard(child)
        child.close()

    def close(self) -> None:
        """Kill every process, and wait until they are gone."""
        for child in list(self._children):
            child.kill()
        with self._lock:
            if self._requests is not None and self._server is not None:
                self._requests.close()
                with suppress(subprocess.TimeoutExpired):
                    self._server.wait(CLOSE_S)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-c", FORK_SERVER, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(START_S)
        try:
            if not ours.recv(1):
                raise AgentError("the fork server for agents' processes does not start; see its lines above")
        except TimeoutError:
            self._server.kill()
            raise AgentError(
                f"the fork server for agents' processes was not ready in {START_S:g} s"
            ) from None
        if self._requests is not None:
            self._requests.close()
        self._requests = ours

    def _request(self, *sockets: socket.socket) -> None:
        with self._lock:
            if self._requests is None:
                raise ConnectionError("there is no fork server")
            socket.send_fds(self._requests, [b"+"], [one.fileno() for one in sockets])
