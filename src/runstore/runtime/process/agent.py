"""The server's side of an agent in a process of its own."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from runstore.core.codec import RecordedEvent
from runstore.core.errors import AgentError
from runstore.core.ports import AgentResult, Asked, RunContext, RunRecorder
from runstore.runtime.attempts.spans import traceparent
from runstore.runtime.catalog.specs import AgentSpec
from runstore.runtime.process import messages
from runstore.runtime.process.messages import event_of, for_child, result_of
from runstore.runtime.process.processes import Child, Processes

READ_BYTES = 1 << 16  # bytes per read from a process

# One logger for all agents' lines: logging keeps every logger name for the life of the process.
_logger = logging.getLogger(__name__)


class ProcessAgent:
    """The port `Agent`: hands the work to a process, and records its events.

    The first cancel of its task is passed on to the process, which gets the grace period; the second kills
    it.
    """

    def __init__(self, processes: Processes, spec: AgentSpec, context: RunContext) -> None:
        self._processes = processes
        self._spec = spec
        self._context = context
        self._child: Child | None = None
        self._cancelled = False  # whether the process was asked to stop

    async def run(
        self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder
    ) -> AgentResult | Asked:
        """See `Agent.run`.

        Raises:
            AgentError: the agent failed, or its process ended unexpectedly.
        """
        child = self._child = await self._processes.fork()
        try:
            begin = messages.Begin(self._context, self._spec, input, list(history), sys.path, traceparent())
            child.writer.write(for_child(begin))
            return await self._attend(asyncio.create_task(_listen(child, recorder)))
        finally:
            self._processes.release(child)

    def cancel(self) -> None:
        """See `Agent.cancel`."""
        if self._child is not None and not self._cancelled:
            self._cancelled = True
            self._child.writer.write(for_child(messages.Cancel()))

    async def _attend(self, listening: "asyncio.Task[AgentResult | Asked]") -> AgentResult | Asked:
        cancelled: asyncio.CancelledError | None = None
        while not listening.done():
            try:
                await asyncio.wait({listening})
            except asyncio.CancelledError as error:
                if cancelled is not None:
                    self._processes.killed += 1
                    listening.cancel()
                    raise
                cancelled = error
                self.cancel()
        if cancelled is not None:
            listening.exception()  # retrieve the agent's reaction to its cancel, which has no reader
            raise cancelled
        return listening.result()


async def _listen(child: Child, recorder: RunRecorder) -> AgentResult | Asked:
    buffer = bytearray()
    while received := await _receive(child.reader):
        buffer += received
        for message in list(messages.to_server(buffer)):
            match message:
                case messages.Said():
                    await recorder.record(event_of(message))
                case messages.WriteAhead():
                    await recorder.commit(event_of(message))
                    child.writer.write(for_child(messages.Stored()))
                case messages.TakeAdded(after):
                    added = messages.Added(list(await recorder.added(after)))
                    child.writer.write(for_child(added))
                case messages.Logged(level, line):
                    _logger.log(level, "%s", line)
                case messages.Ended() | messages.AsksInput():
                    return result_of(message)
    raise AgentError(_how(await child.end()), code="agent_crashed")


async def _receive(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(READ_BYTES)
    except ConnectionError:
        return b""


def _how(status: int | None) -> str:
    if status is None:
        return "the agent's process was lost, and its exit code is unknown"
    if status >= 0:
        return f"the agent's process ended with exit code {status} before the agent finished"
    with suppress(ValueError):
        return f"the agent's process was ended by {signal.Signals(-status).name}"
    return f"the agent's process was ended by signal {-status}"
