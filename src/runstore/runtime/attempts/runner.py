"""One attempt of one run: build the agent, let it work, write the ending."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from runstore.core.codec import RecordedEvent
from runstore.core.errors import AppendRefused, RunstoreError
from runstore.core.events import Completed, Ending, Failed, Queued
from runstore.core.masking import without_keys
from runstore.core.ports import Agent, LogWriter, RunContext
from runstore.runtime.attempts.recorder import Recorder
from runstore.runtime.attempts.spans import attempt_span, note_ending
from runstore.runtime.loops.agent_loops import AgentLoop
from runstore.runtime.providers import HELD, Held
from runstore.runtime.user_code import in_a_line, words_of

SAFE_POINT_S = 0.1  # seconds for an agent to stop by itself before its task is cancelled
MAX_MESSAGE = 4_000  # characters of an error message
MAX_CODE = 100  # characters of an error's code, which a user's code may choose

log = structlog.get_logger(__name__)


class AttemptRunner:
    """Runs an agent on its loop. The ending is the agent's own, or the one that `stop` gives."""

    def __init__(
        self,
        event_log: LogWriter,
        build: Callable[[RunContext, Queued], Awaitable[Agent]],
        loop: AgentLoop,
        context: RunContext,
        queued: Queued,
        history: Sequence[RecordedEvent],
    ) -> None:
        self.context = context
        self.loop = loop
        self._log = event_log
        self._build = build
        self._recorder = Recorder(event_log, context.run_id, context.attempt)
        self._queued = queued
        self._history = history
        self._agent: Agent | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: Ending | None = None
        self._abandoned_at: float | None = None
        self._handed_over = False
        self._written = False
        self._held = Held()

    async def run(self) -> None:
        """Run on the agents' loop until the run has ended, or is no longer ours."""
        self._task = asyncio.current_task()
        HELD.set(self._held)
        with attempt_span(self.context, self._queued.traceparent) as span:
            ending = None if self._abandoned_at else await self._end()
            if self._handed_over:
                ending = None
            if ending is not None:
                ending = await self._write(self._ending or ending)
            note_ending(span, ending, handed_over=self._handed_over)

    async def _end(self) -> Ending | None:
        """The agent's ending; None if another process writes, or has written, the run's ending."""
        try:
            return await self._work()
        except asyncio.CancelledError:
            itself = Failed(code="agent_error", message="the agent cancelled itself")
            return self._ending or itself
        except AppendRefused as refusal:
            self._lose(refusal)
            return None
        except GeneratorExit as error:
            if not self._is_running():  # thrown away with its loop, after the run was closed by force
                raise
            return failure(error)  # the agent's own
        except BaseException as error:  # any error ends this run, and nothing else
            return failure(error)
        finally:
            self._agent = None
            self._held.close()

    def _is_running(self) -> bool:
        try:
            return asyncio.current_task() is self._task
        except RuntimeError:  # no loop runs here
            return False

    @property
    def written(self) -> bool:
        """Whether the ending is stored, or being stored."""
        return self._written

    @property
    def idle_s(self) -> float:
        """Seconds since the agent last said something, without its waits for the log."""
        return self._recorder.idle_s

    @property
    def abandoned_s(self) -> float:
        """Seconds since the run was taken from the agent."""
        return time.monotonic() - self._abandoned_at if self._abandoned_at else 0

    def let_go(self) -> None:
        """Close the resources of an agent that does not end. From any thread; safe to call twice."""
        self._held.close()

    def stop(self, ending: Ending) -> None:
        """End the run with this event: ask the agent, then cancel its task.

        Safe to call from any thread; the first call wins.
        """
        self.loop.call(self._stop, ending)

    def abandon(self, *, handed_over: bool = False) -> None:
        """Write no ending: the run was closed by force, or goes on in another attempt."""
        self._abandoned_at = time.monotonic()  # before the task begins, it cannot be cancelled
        self._handed_over = handed_over
        self.loop.call(self._cancel)

    async def _work(self) -> Ending:
        if self._ending is not None:
            return self._ending
        self._agent = agent = await self._build(self.context, self._queued)
        done = await agent.run(self._queued.input, self._history, self._recorder)
        return Completed(result=done.result, usage=done.usage)

    async def _write(self, ending: Ending) -> Ending | None:
        """Append the ending, or the reason why it cannot be stored. Returns the stored one; None: refused."""
        self._written = True  # from here on the task is not cancelled: the ending is being stored
        try:
            return await self._append(ending)
        except RunstoreError as error:
            if isinstance(error, AppendRefused):
                self._lose(error)
                return None
            return await self._append(failure(error))  # a result that cannot be stored

    def _lose(self, refusal: AppendRefused) -> None:
        log.info("run_lost", run_id=self.context.run_id, reason=str(refusal))

    async def _append(self, ending: Ending) -> Ending:
        await self._log.append(self.context.run_id, [ending], attempt=self.context.attempt, patient=True)
        log.info("run_ended", run_id=self.context.run_id, ending=ending.type)
        return ending

    def _stop(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            if self._agent is not None:
                self._agent.cancel()
            asyncio.get_running_loop().call_later(SAFE_POINT_S, self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self._written:
            self._task.cancel()


def failure(error: BaseException) -> Failed:
    """The ending of a run whose agent raised."""
    if isinstance(error, RunstoreError):
        return Failed(code=str(error.code)[:MAX_CODE], message=without_keys(words_of(error)[:MAX_MESSAGE]))
    return Failed(code="agent_error", message=in_a_line(error))
