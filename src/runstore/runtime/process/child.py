"""Runs in an agent's own process: builds the agent, runs it, and sends its events to the server."""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NoReturn

import structlog

from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import RunstoreError
from runstore.core.events import Completed, Custom, Event, EventType, Failed
from runstore.core.ports import AddedMessage, Asked
from runstore.runtime.attempts.halves import Halves
from runstore.runtime.attempts.recorder import TURN
from runstore.runtime.attempts.runner import SAFE_POINT_S, failure
from runstore.runtime.attempts.spans import child_of, flush_spans
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.loops.agent_loops import new_event_loop
from runstore.runtime.loops.tool_threads import TOOL_THREADS, ToolThreads
from runstore.runtime.process import messages
from runstore.runtime.process.messages import LENGTH_BYTES, ToServer, for_server
from runstore.runtime.user_code import causes_of

NICENESS = 10  # below the server's priority, so that it answers under any load from agents
MAX_LOGGED = 8_192  # characters of a line that an agent logs
MAX_LINES = 1_000  # lines waiting to be sent; more are dropped
PIPE_STACK_BYTES = 512 << 10  # bytes of stack of the thread that reads the pipe
FLUSH_S = 1.0  # seconds for the agent's own tracer provider to export its spans

MIB = 1 << 20


def work(events: socket.socket) -> NoReturn:
    """Do the server's work over the socket `events`, then exit at once."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(NICENESS)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # the server's own standard output carries the line about its address
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        loop = new_event_loop()
        asyncio.set_event_loop(loop)
        work = loop.create_task(_work(events))
        while not work.done() and not loop.is_closed():
            # From an agent that stops the loop, or from a task of its own that exits.
            with suppress(RuntimeError, SystemExit, KeyboardInterrupt):
                loop.run_until_complete(work)
        work.result()
        os._exit(0)
    except ConnectionError:
        pass  # the server has given up this run and closed its end of the socket
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


async def _work(events: socket.socket) -> None:
    events.setblocking(False)
    begin = messages.to_child(await _read(events))
    if not isinstance(begin, messages.Begin):
        raise TypeError(f"the server began with {begin!r}")
    pipe_loop = _new_loop_in_a_thread()
    recorder = PipeRecorder(Pipe(events, pipe_loop))
    _send_logs(recorder)
    sys.path[:] = begin.path
    sys.stdout = sys.stderr  # unbuffered lines
    if begin.spec.memory_limit_mb is not None:
        limit = begin.spec.memory_limit_mb * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    asyncio.get_running_loop().set_default_executor(ToolThreads(TOOL_THREADS, "tool"))
    agent = AgentTask(begin, recorder)
    listening = _listen(events, asyncio.get_running_loop(), agent, recorder)
    asyncio.run_coroutine_threadsafe(listening, pipe_loop)
    ending = await agent.end()
    flush_spans(FLUSH_S)  # the server kills this process as soon as it has the ending
    recorder.end(ending)


def _new_loop_in_a_thread() -> asyncio.AbstractEventLoop:
    """An event loop for the pipe, so that threads can send while the agent's loop waits for them."""
    loop = new_event_loop()
    size = threading.stack_size(PIPE_STACK_BYTES)  # the stack counts towards the agent's memory limit
    threading.Thread(target=loop.run_forever, name="pipe", daemon=True).start()
    threading.stack_size(size)
    return loop


async def _listen(
    events: socket.socket, loop: asyncio.AbstractEventLoop, agent: "AgentTask", recorder: "PipeRecorder"
) -> None:
    while True:
        match messages.to_child(await _read(events)):
            case messages.Cancel():
                loop.call_soon_threadsafe(agent.cancel)
            case messages.Stored():
                recorder.stored()
            case messages.Added(added):
                recorder.took(added)


async def _read(events: socket.socket) -> bytes:
    return await _receive(events, int.from_bytes(await _receive(events, LENGTH_BYTES), "big"))


async def _receive(events: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        part = await asyncio.get_running_loop().sock_recv(events, size - len(received))
        if not part:
            raise ConnectionError("the server is gone")
        received += part
    return bytes(received)


class AgentTask:
    """The running agent, as a task that can be cancelled."""

    def __init__(self, begin: messages.Begin, recorder: "PipeRecorder") -> None:
        self._begin = begin
        self._recorder = recorder
        self._agent: Any = None
        self._task = asyncio.create_task(self._work())

    async def end(self) -> messages.Ended | messages.AsksInput:
        """Wait for the agent to finish, and return its ending, or what it asks."""
        while not self._task.done():
            with suppress(asyncio.CancelledError):  # from an agent that cancels all tasks of its loop
                await asyncio.wait({self._task})
        try:
            ending = self._ending()
            if isinstance(ending, Asked):
                return messages.AsksInput([encode(request).data for request in ending.requests])
            encoded = encode(ending)
        except RunstoreError as error:  # the result cannot be stored
            encoded = encode(failure(error))
        return messages.Ended(encoded.type, encoded.data)

    def _ending(self) -> Completed | Failed | Asked:
        if self._task.cancelled():
            return Failed(code="agent_error", message="the agent cancelled itself")
        error = self._task.exception()
        if error is None:
            return self._task.result()
        if any(isinstance(cause, MemoryError) for cause in causes_of(error)):
            limit = self._begin.spec.memory_limit_mb
            if limit is None:
                return failure(error)
            return Failed(code="memory_limit", message=f"the agent needed more than {limit} MiB")
        return failure(error)

    def cancel(self) -> None:
        """Ask the agent to stop, then cancel its task. If it still runs, the server kills the process."""
        if self._agent is not None:
            self._agent.cancel()
        asyncio.get_running_loop().call_later(SAFE_POINT_S, self._task.cancel)

    async def _work(self) -> Completed | Asked:
        begin = self._begin
        catalog = AgentCatalog({begin.context.agent_name: begin.spec})
        with child_of(begin.traceparent):
            self._agent = agent = await catalog.build(begin.context.agent_name, begin.context)
            done = await agent.run(begin.input, begin.history, self._recorder)
        if isinstance(done, Asked):
            return done
        return Completed(result=done.result, usage=done.usage)


class Pipe:
    """The pipe to the server. A message is sent before the agent goes on, so that a crash loses none.

    Safe to use from any thread and event loop.

    Args:
        loop: runs no code of agents, and sends the bytes that the socket does not take at once.
    """

    def __init__(self, events: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._events = events
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._draining: Future[None] | None = None

    async def write(self, message: ToServer) -> None:
        """Send a message; waits only while the server is behind."""
        if (draining := self.send(message)) is not None:
            await asyncio.shield(asyncio.wrap_future(draining))

    def send(self, message: ToServer) -> "Future[None] | None":
        """Send a message. If the socket takes only part of it, return a future for the rest."""
        data = for_server(message)
        with self._lock:
            sent = 0
            if self._draining is None:
                with suppress(BlockingIOError):
                    sent = self._events.send(data)
            if sent == len(data):
                return None
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
    """The port `RunRecorder` at this end of the pipe. Safe to call from any thread and event loop."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self._turn = 0
        self._halves = Halves()
        self._lock = threading.Lock()
        self._waiting: deque[Future[None]] = deque()
        self._taking: deque[Future[list[AddedMessage]]] = deque()
        self._lines: deque[messages.Logged] = deque()
        self._lines_dropped = 0
        self._called = False  # whether sending lines is scheduled

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.record`."""
        if self._halves.concern(event):
            for each in self._halves.whole(event):
                await self._pipe.write(messages.Said(*_said(each)))
        else:
            await self._pipe.write(messages.Said(*_said(event)))
        self._turn += 1
        if self._turn >= TURN:
            self._turn = 0
            await asyncio.sleep(0)

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.commit`."""
        *before, event = self._halves.whole(event, hold=False)
        for each in before:
            await self._pipe.write(messages.Said(*_said(each)))
        # Encode first: a message that fails to encode gets no answer.
        said = messages.WriteAhead(*_said(event))
        stored: Future[None] = Future()
        with self._lock:  # the server answers in the order of sending
            self._waiting.append(stored)
            self._pipe.send(said)
        await asyncio.shield(asyncio.wrap_future(stored))

    async def added(self, after: int) -> Sequence[AddedMessage]:
        """See `RunRecorder.added`."""
        taken: Future[list[AddedMessage]] = Future()
        with self._lock:  # the server answers in the order of sending
            self._taking.append(taken)
            self._pipe.send(messages.TakeAdded(after))
        return await asyncio.shield(asyncio.wrap_future(taken))

    def took(self, added: list[AddedMessage]) -> None:
        """The server has answered the oldest request for added messages."""
        self._taking.popleft().set_result(added)

    def stored(self) -> None:
        """The server has stored the oldest write-ahead event."""
        self._waiting.popleft().set_result(None)

    def end(self, ending: messages.Ended | messages.AsksInput) -> None:
        """Send the agent's ending, after all of its events. Blocks, so that what the agent has left waits."""
        for line in self._unsent_lines():
            self._pipe.send(line)
        if (draining := self._pipe.send(ending)) is not None:
            draining.result()

    def log(self, level: int, line: str) -> None:
        """Send a line of the log, unless too many are waiting; callable from any thread, never waits."""
        if len(self._lines) >= MAX_LINES:
            self._lines_dropped += 1
            return
        text = line[:MAX_LOGGED].encode(errors="replace").decode()
        self._lines.append(messages.Logged(level, text))
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._send_lines()))

    async def _send_lines(self) -> None:
        for line in self._unsent_lines():
            await self._pipe.write(line)

    def _unsent_lines(self) -> Iterator[messages.Logged]:
        self._called = False
        if self._lines_dropped:
            dropped, self._lines_dropped = self._lines_dropped, 0
            self._lines.append(messages.Logged(logging.WARNING, f"log_lines_dropped lines={dropped}"))
        while self._lines:
            yield self._lines.popleft()


def _said(event: Event | Custom | EncodedEvent) -> tuple[EventType, bytes]:
    encoded = event if isinstance(event, EncodedEvent) else encode(event)
    return encoded.type, encoded.data


class _LogHandler(logging.Handler):
    def __init__(self, recorder: PipeRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            self._recorder.log(record.levelno, self.format(record))
        except Exception:  # wrong arguments of the agent's logging call, such as too few
            self.handleError(record)


def _send_logs(recorder: PipeRecorder) -> None:
    root = logging.getLogger()
    root.handlers = [_LogHandler(recorder)]
    root.setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
