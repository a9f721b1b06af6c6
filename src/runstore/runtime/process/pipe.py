"""A driving process's end of the pipe to the server: what its agents say and log, in both directions."""

import asyncio
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from structlog.contextvars import get_contextvars
from structlog.typing import EventDict

from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import AppendRefused
from runstore.core.events import Custom, Event
from runstore.core.ports import AddedMessage
from runstore.runtime.attempts.halves import SurrogateJoiner
from runstore.runtime.attempts.recorder import TURN
from runstore.runtime.process import messages
from runstore.runtime.process.messages import LENGTH_BYTES, ToServer, for_server

WINDOW_BYTES = 128 << 10  # bytes of one run's events on their way into the log's queue; its agent waits then
AT_ONCE = 8  # messages sent at once within BATCH_S; further ones wait for the end of their turn
BATCH_S = 0.002
FLUSH_BYTES = 32 << 10  # bytes of waiting events that are sent at once, in the middle of a loop's turn
MAX_LOGGED = 8_192  # characters of a line that an agent logs
MAX_LINES = 1_000  # lines waiting to be sent; more are dropped

T = TypeVar("T")
_FIELDS = structlog.processors.LogfmtRenderer()


class Pipe:
    """Sends messages. Safe to use from any thread and event loop.

    Args:
        loop: runs no code of agents, and sends the bytes that the socket does not take at once.
        batched: send what agents say in quick succession at the end of their loop's turn, instead of each
            message before its agent goes on. A crash of the process then loses the messages of that turn.
    """

    def __init__(self, events: socket.socket, loop: asyncio.AbstractEventLoop, *, batched: bool) -> None:
        self._events = events
        self._loop = loop
        self._batched = batched
        self._lock = threading.Lock()
        self._messages: list[ToServer] = []  # not encoded yet
        self._size = 0  # their bytes, roughly
        self._since = 0.0
        self._at_once = 0  # messages sent at once since then
        self._flushing: set[asyncio.AbstractEventLoop] = set()  # they flush at the end of their turn
        self._waiting = bytearray()  # encoded, for a socket that is full
        self._draining: Future[None] | None = None

    def say(self, message: ToServer, size: int) -> None:
        """Send a message of an agent, with others of its turn. Never waits. `size`: its bytes, roughly."""
        with self._lock:
            self._messages.append(message)
            self._size += size
            if self._batched and self._size < FLUSH_BYTES and self._in_succession() and self._is_flushing():
                return
            self._flush()

    def send(self, message: ToServer) -> "Future[None] | None":
        """Send a message after all others. If the socket takes only part, return a future for the rest."""
        with self._lock:
            self._messages.append(message)
            return self._flush()

    def flush(self) -> None:
        """Send the messages that wait for the end of a loop's turn."""
        with self._lock:
            self._flush()

    def _in_succession(self) -> bool:
        """Whether AT_ONCE messages were already sent at once within BATCH_S."""
        now = time.monotonic()
        if now >= self._since + BATCH_S:
            self._since, self._at_once = now, 0
        self._at_once += 1
        return self._at_once > AT_ONCE

    def _is_flushing(self) -> bool:
        """Whether the calling thread's loop will flush."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if loop not in self._flushing:
            self._flushing.add(loop)
            loop.call_soon(self._end_turn, loop)
        return True

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._flushing.discard(loop)
            self._flush()

    def _flush(self) -> "Future[None] | None":
        if not self._messages:
            return self._draining
        batch, self._messages, self._size = self._messages, [], 0
        data = for_server(batch)
        sent = 0
        if self._draining is None:
            with suppress(BlockingIOError):
                sent = self._events.send(data)
        if sent < len(data):
            self._waiting += data[sent:]
            if self._draining is None:
                self._draining = asyncio.run_coroutine_threadsafe(self._drain(), self._loop)
        return self._draining

    async def _drain(self) -> None:
        while True:
            with self._lock:
                data, self._waiting = self._waiting, bytearray()
                if not data:
                    self._draining = None
                    return
            await self._loop.sock_sendall(self._events, data)


class PipeRecorder:
    """The port `RunRecorder` at this end of the pipe. Safe to call from any thread and event loop.

    Args:
        run: its number in this process.
    """

    def __init__(self, pipe: Pipe, run: int, run_id: str) -> None:
        self._pipe = pipe
        self._run = run
        self._run_id = run_id
        self._turn = 0
        self._halves = SurrogateJoiner()
        self._lock = threading.Lock()
        self._window = WINDOW_BYTES
        self._gone = False  # whether the run goes on without this process
        self._blocked: list[Future[None]] = []  # wait for the window
        self._waiting: deque[Future[None]] = deque()
        self._taking: deque[Future[list[AddedMessage]]] = deque()

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.record`.

        Raises:
            AppendRefused: the run goes on without this process.
        """
        if self._halves.concern(event):
            for each in self._halves.whole(event):
                await self._say(each)
        else:
            await self._say(event)
        self._turn += 1
        if self._turn >= TURN:
            self._turn = 0
            await asyncio.sleep(0)

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.commit`. Raises as `record` does."""
        *before, event = self._halves.whole(event, hold=False)
        for each in before:
            await self._say(each)
        encoded = _encoded(event)  # first: a message that fails to encode gets no answer
        stored: Future[None] = Future()
        with self._lock:  # the server answers in the order of sending
            self._check()
            self._waiting.append(stored)
            self._pipe.send(messages.WriteAhead(self._run, encoded.type, encoded.data, encoded.at))
        await asyncio.shield(asyncio.wrap_future(stored))

    async def added(self, after: int) -> Sequence[AddedMessage]:
        """See `RunRecorder.added`."""
        taken: Future[list[AddedMessage]] = Future()
        with self._lock:  # the server answers in the order of sending
            self._check()
            self._taking.append(taken)
            self._pipe.send(messages.TakeAdded(self._run, after))
        return await asyncio.shield(asyncio.wrap_future(taken))

    def took(self, added: list[AddedMessage]) -> None:
        """The server has answered the oldest request for added messages."""
        self._settle(self._taking, added)

    def stored(self) -> None:
        """The server has stored the oldest write-ahead event."""
        self._settle(self._waiting, None)

    def taken(self, size: int) -> None:
        """The log has taken events of this many bytes."""
        with self._lock:
            self._window += size
            blocked, self._blocked = (self._blocked, []) if self._window > 0 else ([], self._blocked)
        for each in blocked:
            each.set_result(None)

    def leave(self) -> None:
        """The run goes on without this process: end all waits here, and refuse further events."""
        with self._lock:
            self._gone = True
            waiting: list[Future[Any]] = [*self._blocked, *self._waiting, *self._taking]
            self._blocked.clear()
            self._waiting.clear()
            self._taking.clear()
        for each in waiting:
            each.set_exception(self._refusal())

    def end(self, ending: messages.Ended | messages.AsksInput) -> "Future[None] | None":
        """Send the agent's ending, after all of its events; see `Pipe.send`."""
        with self._lock:
            return None if self._gone else self._pipe.send(ending)

    async def _say(self, event: Event | Custom | EncodedEvent) -> None:
        encoded = _encoded(event)
        size = len(encoded.data)
        with self._lock:
            self._check()
            self._pipe.say(messages.Offered(self._run, encoded.type, encoded.data, encoded.at), size)
            self._window -= size
            if self._window > 0:
                return
            room: Future[None] = Future()
            self._blocked.append(room)
        await asyncio.shield(asyncio.wrap_future(room))

    def _check(self) -> None:
        if self._gone:
            raise self._refusal()

    def _refusal(self) -> AppendRefused:
        return AppendRefused(self._run_id, 0, f"run {self._run_id} goes on without this process")

    def _settle(self, waiting: "deque[Future[T]]", answer: T) -> None:
        with self._lock:
            first = waiting.popleft() if waiting else None  # none: they were ended by `leave`
        if first is not None:
            first.set_result(answer)


class PipeLog(logging.Handler):
    """Sends the lines that code of this process logs. Never waits: surplus lines are dropped."""

    def __init__(self, pipe: Pipe, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._pipe = pipe
        self._loop = loop
        self._lines: deque[messages.Logged] = deque()
        self._dropped = 0
        self._called = False  # whether sending lines is scheduled

    def install(self) -> None:
        """Send all lines: libraries' warnings, and ours."""
        root = logging.getLogger()
        root.handlers = [self]
        root.setLevel(logging.WARNING)
        logging.getLogger("runstore").setLevel(logging.INFO)
        # An agent that is thrown away leaves its spans outside of their context: no error.
        logging.getLogger("opentelemetry.context").setLevel(logging.CRITICAL)
        structlog.configure(
            processors=[structlog.processors.format_exc_info, _in_a_line],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )

    def createLock(self) -> None:
        """Use no lock: it would be held while an agent's arguments are formatted, which may never end."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            line = self.format(record)
        except Exception:  # wrong arguments of the agent's logging call, such as too few
            self.handleError(record)
            return
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        text = line[:MAX_LOGGED].encode(errors="replace").decode()
        run_id = get_contextvars().get("run_id", "")
        self._lines.append(messages.Logged(record.levelno, text, run_id))
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._send()))

    def flush_lines(self) -> None:
        """Send all waiting lines now, ahead of the next message."""
        for line in self._unsent():
            self._pipe.send(line)

    async def _send(self) -> None:
        for line in self._unsent():
            if (draining := self._pipe.send(line)) is not None:
                await asyncio.shield(asyncio.wrap_future(draining))

    def _unsent(self) -> Iterator[messages.Logged]:
        self._called = False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._lines.append(messages.Logged(logging.WARNING, f"log_lines_dropped lines={dropped}"))
        with suppress(IndexError):  # another thread sends them as well
            while self._lines:
                yield self._lines.popleft()


async def receive(events: socket.socket) -> messages.ToChild:
    """The server's next message.

    Raises:
        ConnectionError: the server is gone, or has given this process up.
    """
    size = int.from_bytes(await _receive(events, LENGTH_BYTES), "big")
    return messages.to_child(await _receive(events, size))


async def _receive(events: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        part = await asyncio.get_running_loop().sock_recv(events, size - len(received))
        if not part:
            raise ConnectionError("the server is gone")
        received += part
    return bytes(received)


def _encoded(event: Event | Custom | EncodedEvent) -> EncodedEvent:
    return event if isinstance(event, EncodedEvent) else encode(event)


def _in_a_line(logger: object, method: str, line: EventDict) -> str:
    """The event as the first word, then its fields, as in the server's own lines."""
    event = line.pop("event", "")
    return f"{event} {_FIELDS(logger, method, line)}".rstrip()
