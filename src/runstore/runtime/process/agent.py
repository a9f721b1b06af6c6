"""The server's side of an agent that works in another process."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.ports import AgentResult, Asked, RunContext, RunRecorder
from runstore.runtime.attempts.spans import traceparent
from runstore.runtime.process import messages
from runstore.runtime.process.channel import RunChannel
from runstore.runtime.process.messages import result_of


class RunChannels(Protocol):
    """Where agents find a process. `gentle`: an agent whose run goes on elsewhere is asked to stop first."""

    gentle: bool

    def event_of(self, message: messages.Offered | messages.WriteAhead) -> EncodedEvent:
        """An agent's event, checked as far as the process is not trusted.

        Raises:
            AgentError: it is malformed, or agents must not write it.
        """

    async def take(self) -> RunChannel:
        """A channel to a process, for one run.

        Raises:
            AgentError: no process can be started.
        """

    def moved(self) -> Exception:
        """The error of an attempt whose process gives its run back."""

    def leave(self, channel: RunChannel, *, ended: bool, forced: bool) -> None:
        """Close a channel.

        Args:
            ended: the agent has ended; otherwise it must not go on.
            forced: it did not react to its cancel.
        """


class ProcessAgent:
    """The port `Agent`: hands the work to a process, and records its events.

    The first cancel of its task is passed on to the process, which gets the grace period; with the second the
    process has to do without the run. A process that agents share has to do so with the first cancel, if the
    agent was not asked to stop: then the run goes on elsewhere, and the agent must say nothing more about it.
    """

    def __init__(
        self,
        channels: RunChannels,
        context: RunContext,
        definition: Mapping[str, Any] | None = None,
        *,
        parent: str | None = None,
    ) -> None:
        self._channels = channels
        self._context = context
        self._definition = definition or {}
        self._parent = parent
        self._channel: RunChannel | None = None
        self._cancelled = False  # whether the process was asked to stop the agent
        self._ended = False
        self._forced = False

    async def run(
        self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder
    ) -> AgentResult | Asked:
        """See `Agent.run`.

        Raises:
            AgentError: the agent failed, or its process ended unexpectedly.
            AttemptLost: the process ended, or gave the run back, and it may go on in another one.
        """
        channel = self._channel = await self._channels.take()
        try:
            begin = messages.Begin(
                channel.run,
                self._context,
                self._definition,
                input,
                list(history),
                traceparent(),
                self._parent,
            )
            channel.send(begin)
            return await self._attend(asyncio.create_task(self._listen(channel, recorder)))
        finally:
            self._channels.leave(channel, ended=self._ended, forced=self._forced)

    def cancel(self) -> None:
        """See `Agent.cancel`."""
        if self._channel is not None and not self._cancelled:
            self._cancelled = True
            self._channel.send(messages.Cancel(self._channel.run))

    async def _attend(self, listening: "asyncio.Task[AgentResult | Asked]") -> AgentResult | Asked:
        cancelled: asyncio.CancelledError | None = None
        while not listening.done():
            try:
                await asyncio.wait({listening})
            except asyncio.CancelledError as error:
                if cancelled is not None or not (self._cancelled or self._channels.gentle):
                    self._forced = True
                    listening.cancel()
                    raise
                cancelled = error
                self.cancel()
        if cancelled is not None:
            listening.exception()  # retrieve the agent's reaction to its cancel, which has no reader
            raise cancelled
        return listening.result()

    async def _listen(self, channel: RunChannel, recorder: RunRecorder) -> AgentResult | Asked:
        event_of = self._channels.event_of
        while True:
            for message in await channel.receive():
                match message:
                    case messages.Offered():
                        await recorder.record(event_of(message))
                        channel.taken(message)
                    case messages.WriteAhead():
                        await recorder.commit(event_of(message))
                        channel.taken(message)
                        channel.send(messages.Stored(channel.run))
                    case messages.TakeAdded(_, after):
                        channel.send(messages.Added(channel.run, list(await recorder.added(after))))
                    case messages.Moved():
                        raise self._channels.moved()
                    case messages.Ended() | messages.AsksInput():
                        self._ended = True
                        return result_of(message)
