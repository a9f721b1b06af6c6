"""An agent's own process: it drives one run, is not trusted, and ends with its agent."""

import signal
import sys
from contextlib import suppress

from runstore.core.codec import EncodedEvent
from runstore.core.errors import AgentError
from runstore.runtime.catalog.specs import AgentSpec
from runstore.runtime.process import messages
from runstore.runtime.process.channel import Channel, RunChannel
from runstore.runtime.process.processes import Processes


class OwnProcess:
    """The port `RunChannels`, with one channel: to a new process for an agent of this name."""

    gentle = True

    def __init__(self, processes: Processes, name: str, spec: AgentSpec) -> None:
        self._processes = processes
        self._settings = messages.Open({name: spec}, sys.path, memory_limit_mb=spec.memory_limit_mb)
        self._channel: Channel | None = None

    def event_of(self, message: messages.Offered | messages.WriteAhead) -> EncodedEvent:
        """See `RunChannels.event_of`."""
        return messages.event_of(message)

    async def take(self) -> RunChannel:
        """See `RunChannels.take`."""
        child = await self._processes.fork()

        async def fault() -> Exception:
            return AgentError(_how(await child.end()), code="agent_crashed")

        channel = self._channel = Channel(child, self._settings, fault=fault)
        return channel.open_run()

    def moved(self) -> Exception:
        """See `RunChannels.moved`. There is no other run that could hold this one's loop."""
        return AgentError("the agent's process sent a message that only a shared one may send")

    def leave(self, channel: RunChannel, *, ended: bool, forced: bool) -> None:
        """Kill the process. See `RunChannels.leave`."""
        if self._channel is not None:
            self._processes.killed += forced
            self._channel.reading.cancel()
            self._processes.release(self._channel.child)


def how_it_ended(status: int | None) -> str:
    """The end of a process in words. status: its exit code, or minus a signal's number; None: unknown."""
    if status is None:
        return "was lost, and its exit code is unknown"
    if status >= 0:
        return f"ended with exit code {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


def _how(status: int | None) -> str:
    before = " before the agent finished" if status is not None and status >= 0 else ""
    return f"the agent's process {how_it_ended(status)}{before}"
