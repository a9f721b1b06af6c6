"""The server's end of the pipe to a process that drives runs, and each run's part of it."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

from structlog.contextvars import bound_contextvars, get_contextvars

from runstore.core.errors import AgentError
from runstore.runtime.process import messages
from runstore.runtime.process.messages import for_child
from runstore.runtime.process.pipe import WINDOW_BYTES
from runstore.runtime.process.processes import Child

READ_BYTES = 1 << 18  # bytes per read from a process
MAX_HELD_BYTES = 16 << 20  # bytes of events that runs have not taken, after which no more are read
GRANT_BYTES = WINDOW_BYTES // 2  # bytes that the log takes of a run before the process gets a grant for them

# One logger for all agents' lines: logging keeps every logger name for the life of the process.
_logger = logging.getLogger("runstore.runtime.process.agent")


class Channel:
    """The runs of one process. Belongs to the event loop that made it.

    Args:
        fault: the error of the runs that are open when the process has ended.
        on_process_message: called with each message that concerns the process and not one run.
    """

    def __init__(
        self,
        child: Child,
        settings: messages.Open,
        *,
        fault: Callable[[], Awaitable[Exception]],
        on_process_message: Callable[[messages.OfProcess], None] = lambda message: None,
    ) -> None:
        self.child = child
        self._fault = fault
        self._on_process_message = on_process_message
        self._numbers = itertools.count(1)
        self._runs: dict[int, RunChannel] = {}
        self._held = 0  # bytes of events that its runs have
        self._room = asyncio.Event()
        self.send(settings)
        self.reading = asyncio.create_task(self._read())

    def __len__(self) -> int:
        """The number of open runs."""
        return len(self._runs)

    def open_run(self) -> "RunChannel":
        """A channel for one more run."""
        number = next(self._numbers)
        run_channel = self._runs[number] = RunChannel(self, number)
        return run_channel

    def send(self, message: messages.ToChild) -> None:
        """Send a message to the process."""
        self.child.writer.write(for_child(message))

    def close(self, run_channel: "RunChannel") -> None:
        """Drop what comes for a run from now on."""
        if self._runs.pop(run_channel.run, None) is not None:
            self.release(run_channel.held)

    def release(self, size: int) -> None:
        """Note that events of this many bytes are gone."""
        self._held -= size
        self._room.set()

    async def _read(self) -> None:
        buffer = bytearray()
        malformed: AgentError | None = None
        try:
            while received := await self._receive():
                buffer += received
                for batch in messages.to_server(buffer):
                    self._deliver(batch)
        except AgentError as error:
            malformed = error
        fault = malformed or await self._fault()
        for run_channel in list(self._runs.values()):
            run_channel.fail(fault)

    async def _receive(self) -> bytes:
        while self._held > MAX_HELD_BYTES:
            self._room.clear()
            await self._room.wait()
        try:
            return await self.child.reader.read(READ_BYTES)
        except ConnectionError:
            return b""

    def _deliver(self, batch: list[messages.ToServer]) -> None:
        woken: set[RunChannel] = set()
        for message in batch:
            if isinstance(message, messages.OfRun):
                run_channel = self._runs.get(message.run)
                if run_channel is not None:
                    self._held += run_channel.put(message)
                    woken.add(run_channel)
            elif isinstance(message, messages.Logged):
                self._log(message)
            else:
                self._on_process_message(message)
        for run_channel in woken:
            run_channel.wake()

    def _log(self, line: messages.Logged) -> None:
        ours = get_contextvars().get("run_id")  # an agent's own process cannot name another run
        with bound_contextvars(**({"run_id": line.run_id} if line.run_id and not ours else {})):
            _logger.log(line.level, "%s", line.message)


class RunChannel:
    """One run's part of a channel."""

    def __init__(self, channel: Channel, run: int) -> None:
        self.run = run
        self.held = 0  # bytes of its events that were not taken
        self._channel = channel
        self._messages: list[messages.OfRun] = []
        self._news = asyncio.Event()
        self._fault: Exception | None = None
        self._taken = 0  # bytes without a grant so far

    def send(self, message: messages.ToChild) -> None:
        """Send a message to the run's process."""
        self._channel.send(message)

    def leave(self, *, notify: bool) -> None:
        """Close it. Later messages about the run are dropped.

        Args:
            notify: send the process a message, so that it stops the agent.
        """
        self._channel.close(self)
        if notify and self._fault is None:
            self.send(messages.Leave(self.run))

    def put(self, message: messages.OfRun) -> int:
        """Add a message; returns the bytes of its event. `wake` makes it known."""
        self._messages.append(message)
        size = _size(message)
        self.held += size
        return size

    def wake(self) -> None:
        self._news.set()

    def fail(self, fault: Exception) -> None:
        """No more messages come, for this reason."""
        self._fault = fault
        self._news.set()

    async def receive(self) -> list[messages.OfRun]:
        """The messages that have come, at least one; raises the reason why none comes any more."""
        while not self._messages:
            if self._fault is not None:
                raise self._fault
            self._news.clear()
            await self._news.wait()
        received, self._messages = self._messages, []
        return received

    def taken(self, message: messages.OfRun) -> None:
        """The log has taken a message's event."""
        size = _size(message)
        self.held -= size
        self._channel.release(size)
        if isinstance(message, messages.Offered):
            self._taken += size
            if self._taken >= GRANT_BYTES:
                self.send(messages.Taken(self.run, self._taken))
                self._taken = 0


def _size(message: messages.OfRun) -> int:
    return len(message.data) if isinstance(message, messages.Offered | messages.WriteAhead) else 0
