"""A run that a program records itself, instead of an agent that runstore runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from runstore.core.errors import AppendRefused, InvalidEvent, LogUnavailable, RunNotFound, Unheard
from runstore.core.events import Cancelled, Completed, Custom, Ending, Event, Queued, Started, Token
from runstore.core.ids import new_run_id
from runstore.core.names import check_name
from runstore.core.new_run import NewRun
from runstore.core.ports import EventLog, LogWriter
from runstore.runtime.attempts.recorder import Recorder
from runstore.runtime.attempts.runner import failure, with_unheard
from runstore.runtime.leases.leases import Leases

END_S = 1.0  # seconds at the end of the block for the ending to be stored; in an outage it is stored later
OF_THE_BLOCK = (Queued, Started, Ending)  # events that start and end the run


class OwnRun:
    """Records the run of a `LocalStore.begin` block. `result` and `usage`: the outcome of the run."""

    def __init__(self, run_id: str, agent: str, recorder: Recorder) -> None:
        self.run_id = run_id
        self.result: dict[str, Any] = {}
        self.usage: dict[str, int] = {}
        self._agent = agent
        self._recorder = recorder

    async def say(self, text: str) -> None:
        """Record an `llm.token`."""
        await self.record(Token(agent=self._agent, text=text))

    async def record(self, event: Event | Custom) -> None:
        """Queue an event; waits only while the log is behind.

        Raises:
            InvalidEvent: it cannot be stored.
            RunClosed: the run has ended, for example by the grace period after a stop request.
        """
        await self._recorder.record(_allowed(event))

    async def commit(self, event: Event | Custom) -> None:
        """Record an event, and return when it is stored. Raises as `record` does."""
        await self._recorder.commit(_allowed(event))


@asynccontextmanager
async def own_run(log: EventLog, leases: Leases, new: NewRun) -> AsyncIterator[OwnRun]:
    """Begin a run, and end it with the block.

    It is started as it is queued, under this process's own lease, and its definition says that there is no
    agent to run: a supervisor leaves it alone while the process lives, and closes it afterwards.
    """
    check_name(new.agent, "agent")
    await leases.hold()
    run_id = new_run_id()
    beginning = [
        new.queued({"recorded": True}),
        Started(worker_id=leases.worker_id, attempt=1, reason="claimed"),
    ]
    recorder = Recorder(log, run_id, attempt=1)
    run = OwnRun(run_id, new.agent, recorder)
    try:
        await log.append(run_id, beginning, expected_seq=0)  # given up, it may come to be stored all the same
        yield run
        await recorder.flush()
        await _complete(log, run_id, Completed(result=run.result, usage=run.usage))
    except asyncio.CancelledError:
        await _end(log, run_id, Cancelled(reason="cancelled"))
        raise
    except Exception as error:
        await _end(log, run_id, failure(error))
        raise


async def _complete(log: EventLog, run_id: str, completed: Completed) -> None:
    """Append the ending, with the messages that people added as `unheard`: a program takes none."""
    heard = 0
    while True:
        try:
            await log.append(run_id, [completed], attempt=1, patient=True, heard=heard)
            return
        except Unheard as late:
            completed, heard = await with_unheard(log, run_id, completed, heard, late), late.added


async def _end(log: LogWriter, run_id: str, ending: Ending) -> None:
    """End a run, even if the caller is cancelled while the ending is stored."""
    await asyncio.wait([asyncio.create_task(_append(log, run_id, ending))], timeout=END_S)


async def _append(log: LogWriter, run_id: str, ending: Ending) -> None:
    # It has ended already, or never begun, which is why the block raised; or the log was closed.
    with suppress(AppendRefused, RunNotFound, LogUnavailable):
        await log.append(run_id, [ending], attempt=1, patient=True)


def _allowed(event: Event | Custom) -> Event | Custom:
    if isinstance(event, OF_THE_BLOCK):
        raise InvalidEvent(f"{event.type} is recorded when the run's block begins or ends")
    return event
