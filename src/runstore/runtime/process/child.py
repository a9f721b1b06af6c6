"""An agent's own process: it builds the agent, lets it work, and sends what it says to the server."""

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
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NoReturn

import structlog

from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import RunstoreError
from runstore.core.events import Completed, Custom, Event, EventType, Failed
from runstore.runtime.attempt_runner import SAFE_POINT_S, failure
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.halves import Halves
from runstore.runtime.loops import new_event_loop
from runstore.runtime.process import messages
from runstore.runtime.process.messages import LENGTH_BYTES, ToServer, for_server
from runstore.runtime.recorder import TURN
from runstore.runtime.spans import child_of, flush_spans
from runstore.runtime.tool_threads import TOOL_THREADS, ToolThreads
from runstore.runtime.user_code import causes_of

NICENESS = 10  # below the server's, which has to answer whatever agents do
MAX_LOGGED = 8_192  # characters of a line that an agent logs
MAX_LINES = 1_000  # that wait to be sent; what is too much is dropped
PIPE_STACK_BYTES = 512 << 10  # of the thread that reads the pipe
FLUSH_S = 1.0  # for the agent's own tracer provider to hand out its spans

MIB = 1 << 20


def work(events: socket.socket) -> NoReturn:
    """Do what the server says over the socket `events`, then leave at once."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(NICENESS)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # the server's own standard output says where it listens
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        asyncio.Runner(loop_factory=new_event_loop).run(_work(events))
        os._exit(0)
    except ConnectionError:
        pass  # the server has let go of this run, and its end of the socket
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
    sys.stdout = sys.stderr  # as it is, line by line
    if begin.spec.memory_limit_mb is not None:
        limit = begin.spec.memory_limit_mb * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    asyncio.get_running_loop().set_default_executor(ToolThreads(TOOL_THREADS, "tool"))
    agent = AgentTask(begin, recorder)
    listening = _listen(events, asyncio.get_running_loop(), agent, recorder)
    asyncio.run_coroutine_threadsafe(listening, pipe_loop)
    ending = await agent.end()
    flush_spans(FLUSH_S)  # the server has us killed as soon as it knows the ending
    await recorder.end(ending)


def _new_loop_in_a_thread() -> asyncio.AbstractEventLoop:
    """A loop for the pipe: a thread's words get there also while the agent's loop waits for that thread."""
    loop = new_event_loop()
    size = threading.stack_size(PIPE_STACK_BYTES)  # of the memory that the agent may use
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
    """The agent at work, in a task that can be cancelled."""

    def __init__(self, begin: messages.Begin, recorder: "PipeRecorder") -> None:
        self._begin = begin
        self._recorder = recorder
        self._agent: Any = None
        self._task = asyncio.create_task(self._work())

    async def end(self) -> EncodedEvent:
        """What the agent came to."""
        await asyncio.wait({self._task})
        try:
            return encode(self._ending())
        except RunstoreError as error:  # a result that cannot be stored
            return encode(failure(error))

    def _ending(self) -> Completed | Failed:
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
        """Ask the agent to stop, then cancel its task; what does not end then is killed from outside."""
        if self._agent is not None:
            self._agent.cancel()
        asyncio.get_running_loop().call_later(SAFE_POINT_S, self._task.cancel)

    async def _work(self) -> Completed:
        begin = self._begin
        catalog = AgentCatalog({begin.context.agent_name: begin.spec})
        with child_of(begin.traceparent):
            self._agent = agent = await catalog.build(begin.context.agent_name, begin.context)
            done = await agent.run(begin.input, begin.history, self._recorder)
        return Completed(result=done.result, usage=done.usage)


class Pipe:
    """The way to the server. What is written is sent before the agent goes on: a crash loses none of it.

    Safe to use from any thread and event loop.

    Args:
        loop: one that no agent's code runs on, which sends what the socket does not take at once.
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
        """Send a message, or what the socket takes of it; then what is to be waited for is returned."""
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
        self._lines: deque[messages.Logged] = deque()
        self._lines_dropped = 0
        self._called = False  # to send lines

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
        said = messages.WriteAhead(*_said(event))  # first: what is not sent is not answered
        stored: Future[None] = Future()
        with self._lock:  # the answers come in the order of sending
            self._waiting.append(stored)
            self._pipe.send(said)
        await asyncio.shield(asyncio.wrap_future(stored))

    def stored(self) -> None:
        """The server has stored the oldest of what was to be written ahead."""
        self._waiting.popleft().set_result(None)

    async def end(self, ending: EncodedEvent) -> None:
        """Say how the agent ended, after all that it said."""
        await self._send_lines()
        await self._pipe.write(messages.Ended(ending.type, ending.data))

    def log(self, level: int, line: str) -> None:
        """Send a line of the log, unless too many wait already; from any thread, which does not wait."""
        if len(self._lines) >= MAX_LINES:
            self._lines_dropped += 1
            return
        text = line[:MAX_LOGGED].encode(errors="replace").decode()
        self._lines.append(messages.Logged(level, text))
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._send_lines()))

    async def _send_lines(self) -> None:
        self._called = False
        if self._lines_dropped:
            dropped, self._lines_dropped = self._lines_dropped, 0
            self._lines.append(messages.Logged(logging.WARNING, f"log_lines_dropped lines={dropped}"))
        while self._lines:
            await self._pipe.write(self._lines.popleft())


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
        except Exception:  # of the agent's own arguments, as in a line with too few of them
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
