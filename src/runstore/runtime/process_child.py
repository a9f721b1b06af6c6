"""An agent's own process: it builds the agent, lets it work, and sends what it says to the server."""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

import structlog

from runstore.core.codec import EncodedEvent, encode
from runstore.core.events import Custom, Event
from runstore.runtime import process_messages as messages
from runstore.runtime.agents import AgentCatalog
from runstore.runtime.executor import SAFE_POINT_S, failure
from runstore.runtime.loops import new_event_loop
from runstore.runtime.process_messages import LENGTH_BYTES, MAX_BATCH_BYTES, ToServer, pack
from runstore.runtime.recorder import TURN
from runstore.runtime.spans import child_of

NICENESS = 10  # below the server's, which has to answer whatever agents do
MAX_LOGGED = 8_192  # characters of a line that an agent logs

MIB = 1 << 20


def work(events: socket.socket) -> NoReturn:
    """Do what the server says over the socket `events`, then leave at once."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(NICENESS)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_work(events))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


async def _work(events: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=events)
    begin = messages.to_child(await _read(reader))
    if not isinstance(begin, messages.Begin):
        raise TypeError(f"the server began with {begin!r}")
    recorder = PipeRecorder(writer)
    _send_logs(recorder)
    sys.path[:] = begin.path
    sys.stdout = sys.stderr  # the server's own standard output says where it listens
    if begin.spec.memory_limit_mb is not None:
        limit = begin.spec.memory_limit_mb * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    attempt = Attempt(begin, recorder)
    listening = asyncio.create_task(_listen(reader, attempt, recorder))
    await recorder.send(await attempt.end())
    listening.cancel()


async def _listen(reader: asyncio.StreamReader, attempt: "Attempt", recorder: "PipeRecorder") -> None:
    while True:
        match messages.to_child(await _read(reader)):
            case messages.Cancel():
                attempt.cancel()
            case messages.Stored():
                recorder.stored()


async def _read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big"))


class Attempt:
    """The agent at work, in a task that can be cancelled."""

    def __init__(self, begin: messages.Begin, recorder: "PipeRecorder") -> None:
        self._begin = begin
        self._recorder = recorder
        self._agent: Any = None
        self._task = asyncio.create_task(self._work())

    async def end(self) -> ToServer:
        """What the agent came to."""
        await asyncio.wait({self._task})
        if self._task.cancelled():
            return messages.Raised("agent_error", "the agent cancelled itself")
        error = self._task.exception()
        if error is None:
            return self._task.result()
        if _is_memory_error(error):
            return messages.Raised(
                "memory_limit", f"the agent needed more than {self._begin.spec.memory_limit_mb} MiB"
            )
        ending = failure(error)
        return messages.Raised(ending.code, ending.message)

    def cancel(self) -> None:
        """Ask the agent to stop, then cancel its task; what does not end then is killed from outside."""
        if self._agent is not None:
            self._agent.cancel()
        asyncio.get_running_loop().call_later(SAFE_POINT_S, self._task.cancel)

    async def _work(self) -> ToServer:
        begin = self._begin
        catalog = AgentCatalog({begin.context.agent_name: begin.spec})
        with child_of(begin.traceparent):
            self._agent = agent = await catalog.build(begin.context.agent_name, begin.context)
            done = await agent.run(begin.input, begin.history, self._recorder)
        return messages.Done(done.result, done.usage)


class PipeRecorder:
    """The port `RunRecorder` at this end of the pipe. What a turn of the loop records is sent at its end."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._said: list[messages.Said] = []
        self._bytes = 0
        self._turn = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.record`."""
        said = _said(event)
        if not self._said:
            self._loop.call_soon(self._flush)
        self._said.append(said)
        self._bytes += len(said[1])
        self._turn += 1
        if self._turn >= TURN or self._bytes >= MAX_BATCH_BYTES:
            self._turn = 0
            self._flush()
            await self._writer.drain()
            await asyncio.sleep(0)

    def record_from_thread(self, event: Event | Custom) -> None:
        """See `RunRecorder.record_from_thread`."""
        asyncio.run_coroutine_threadsafe(self.record(event), self._loop).result()

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.commit`."""
        stored = self._loop.create_future()
        self._waiting.append(stored)
        await self.send(messages.WriteAhead(_said(event)))
        await stored

    def stored(self) -> None:
        """The server has stored the oldest of what was to be written ahead."""
        stored = self._waiting.pop(0)
        if not stored.done():
            stored.set_result(None)

    async def send(self, message: ToServer) -> None:
        """Send a message after what was recorded."""
        self._flush()
        self._writer.write(pack(message))
        await self._writer.drain()

    def log(self, record: logging.LogRecord) -> None:
        """Send a line of the log; from any thread."""
        line = messages.Logged(record.name, record.levelno, record.getMessage()[:MAX_LOGGED])
        self._loop.call_soon_threadsafe(self._writer.write, pack(line))

    def _flush(self) -> None:
        if self._said:
            said, self._said, self._bytes = self._said, [], 0
            self._writer.write(pack(messages.Events(said)))


def _said(event: Event | Custom | EncodedEvent) -> messages.Said:
    encoded = event if isinstance(event, EncodedEvent) else encode(event)
    return encoded.type, encoded.data


def _is_memory_error(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


class _LogHandler(logging.Handler):
    def __init__(self, recorder: PipeRecorder) -> None:
        super().__init__()
        self.emit = recorder.log  # type: ignore[method-assign]


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
