"""One attempt of one run: build the agent, let it work, write the ending."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from msgspec import Struct
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent
from runstore.core.errors import AgentError, AppendRefused, RunstoreError, Unheard
from runstore.core.events import Completed, Ending, Event, Failed, InputRequested, Queued, StartReason
from runstore.core.inputs import MAX_REQUESTS, approval_schema, numbered
from runstore.core.masking import without_keys
from runstore.core.ports import Agent, AgentResult, Asked, EventLog, LogReader, RunContext
from runstore.core.times import now_ms
from runstore.runtime.attempts.recorder import ADDED, Recorder
from runstore.runtime.attempts.spans import attempt_span, note_ending
from runstore.runtime.catalog.output_schema import check_schema, schema_warnings
from runstore.runtime.holders import HELD, AttemptHolders
from runstore.runtime.loops.agent_loops import AgentLoop
from runstore.runtime.user_code import for_users, words_of
from runstore.threads import in_own_thread

SAFE_POINT_S = 0.1  # seconds for an agent to stop by itself before its task is cancelled
MAX_MESSAGE = 4_000  # characters of an error message
MAX_CODE = 100  # characters of an error's code, which a user's code may choose
MAX_UNHEARD = 100  # messages that the agent has not taken, and its run's ending names

log = structlog.get_logger(__name__)


class AttemptLost(Exception):
    """The agent's process does not go on with the run, which may go on in another attempt.

    Args:
        crashed: the process has ended; otherwise it gave the run back.
    """

    def __init__(self, *, crashed: bool) -> None:
        super().__init__("the process of the run's agent is gone")
        self.crashed = crashed


class GoesOn(Struct, frozen=True):
    """The run has to go on in another attempt of this worker, for this reason."""

    reason: StartReason


# The ending or the requests that were stored; None: another process goes on with the run, or has ended it.
AttemptEnd = Ending | Asked | GoesOn | None


class AttemptRunner:
    """Runs an agent on its loop. The ending is the agent's own, or the one that `stop` gives.

    Args:
        fresh: see `Recorder`.
    """

    def __init__(
        self,
        event_log: EventLog,
        build: Callable[[RunContext, Queued], Awaitable[Agent]],
        loop: AgentLoop,
        context: RunContext,
        queued: Queued,
        history: Sequence[RecordedEvent],
        *,
        fresh: bool = False,
    ) -> None:
        self.context = context
        self.loop = loop
        self._log = event_log
        self._build = build
        self._recorder = Recorder(event_log, context.run_id, context.attempt, reader=event_log, fresh=fresh)
        self._queued = queued
        self._history = history
        self._agent: Agent | None = None
        self._task: asyncio.Task[AttemptEnd] | None = None
        self._ending: Ending | None = None
        self._abandoned_at: float | None = None
        self._handed_over = False
        self.written = False  # whether the ending is stored, or being stored: the task is not cancelled then
        self._held = AttemptHolders()

    async def run(self) -> AttemptEnd:
        """Run on the agents' loop until the run has ended, or is no longer ours."""
        self._task = asyncio.current_task()
        HELD.set(self._held)
        with attempt_span(self.context, self._queued.traceparent) as span:
            done = None if self._abandoned_at else await self._end()
            end: AttemptEnd = None
            if not self._handed_over:
                end = done if done is None or isinstance(done, GoesOn) else await self._write(done)
            handed_over = self._handed_over or end == GoesOn("added")
            note_ending(span, None if isinstance(end, GoesOn) else end, handed_over=handed_over)
            return end

    async def _end(self) -> AgentResult | AttemptEnd:
        """How the agent has ended; None if another process writes, or has written, the run's ending."""
        try:
            return await self._work()
        except asyncio.CancelledError:
            itself = Failed(code="agent_error", message="the agent cancelled itself")
            return self._ending or itself
        except AppendRefused as refusal:
            self._lose(refusal)
            return None
        except AttemptLost as lost:
            return self._ending or GoesOn("adopted" if lost.crashed else "handed_over")
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
    def idle_s(self) -> float:
        """Seconds since the agent last said something, without its waits for the log."""
        return self._recorder.idle_s

    @property
    def abandoned_s(self) -> float:
        """Seconds since the run was taken from the agent."""
        return time.monotonic() - self._abandoned_at if self._abandoned_at else 0

    def notify_added(self, seq: int) -> None:
        """Notify the agent that a person added a message to its run. From any thread."""
        self._recorder.notify(seq)

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

    async def _work(self) -> AgentResult | Ending | Asked:
        if self._ending is not None:
            return self._ending
        self._agent = agent = await self._build(self.context, self._queued)
        done = await agent.run(self._queued.input, self._history, self._recorder)
        return await self._timed(done) if isinstance(done, Asked) else done

    async def _timed(self, asked: Asked) -> Asked:
        """The requests with their ids, and the agent's own time limit for those without one."""
        if len(asked.requests) > MAX_REQUESTS:
            raise AgentError(
                f"the agent asks {len(asked.requests):,} questions at once; the limit is {MAX_REQUESTS}"
            )
        limit_s = self._queued.definition.get("input_timeout_s")
        expires_at = None if limit_s is None else now_ms() + int(limit_s * 1_000)
        requests = [await _checked(each) for each in numbered(asked.requests, self.context.attempt)]
        return Asked([replace(each, expires_at=each.expires_at or expires_at) for each in requests])

    async def _write(self, done: AgentResult | Ending | Asked) -> AttemptEnd:
        """Append the run's ending, or the reason why it cannot be stored.

        Requests for input end the attempt in the same way, and leave the run waiting.
        """
        self.written = True
        try:
            ending = self._ending or done
            return await (self._complete(ending) if isinstance(ending, AgentResult) else self._append(ending))
        except RunstoreError as error:
            if isinstance(error, AppendRefused):
                self._lose(error)
                return None
            return await self._append(failure(error))  # a result that cannot be stored

    def _lose(self, refusal: AppendRefused) -> None:
        log.info("run_lost", run_id=self.context.run_id, reason=str(refusal))

    async def _append(self, ending: Ending | Asked) -> Ending | Asked:
        run_id = self.context.run_id
        events: Sequence[Event] = ending.requests if isinstance(ending, Asked) else [ending]
        await self._log.append(run_id, events, attempt=self.context.attempt, patient=True)
        if isinstance(ending, Asked):
            log.info("run_waits", run_id=run_id, requests=len(events))
        else:
            log.info("run_ended", run_id=run_id, ending=ending.type)
        return ending

    async def _complete(self, done: AgentResult) -> AttemptEnd:
        """Append the agent's own ending, unless a message was added that another attempt can take."""
        completed = Completed(result=done.result, usage=done.usage, unheard=[*done.unheard][:MAX_UNHEARD])
        run_id, heard = self.context.run_id, done.heard
        while True:
            try:
                await self._log.append(
                    run_id, [completed], attempt=self.context.attempt, patient=True, heard=heard
                )
            except Unheard as late:
                if self._ending is not None:  # a stop has come
                    return await self._append(self._ending)
                if done.hears:
                    log.info("run_goes_on", run_id=run_id, added=late.added)
                    return GoesOn("added")
                completed, heard = await with_unheard(self._log, run_id, completed, heard, late), late.added
                log.warning("messages_unheard", run_id=run_id, added=completed.unheard)
            else:
                log.info("run_ended", run_id=run_id, ending=completed.type)
                return completed

    def _stop(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
            if self._agent is not None:
                self._agent.cancel()
            asyncio.get_running_loop().call_later(SAFE_POINT_S, self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and not self.written:
            self._task.cancel()


async def with_unheard(
    log: LogReader, run_id: str, completed: Completed, heard: int, late: Unheard
) -> Completed:
    """A refused ending, with the first of the messages that came after `heard`, the last one taken."""
    seqs, after = [*completed.unheard], heard
    while len(seqs) < MAX_UNHEARD and (
        page := await log.read(run_id, after=after, upto=late.added, only=ADDED)
    ):
        seqs += [event.seq for event in page]
        after = seqs[-1]
    return replace(completed, unheard=seqs[:MAX_UNHEARD])


async def _checked(request: InputRequested) -> InputRequested:
    """A request whose answer can be checked.

    Raises:
        AgentError: its schema is not a JSON Schema, or its default is not within it.
    """
    if request.schema is None:
        return request
    question = f"the question {request.prompt[:100]!r}"
    try:
        check_schema(request.schema, f"the schema of {question}")
    except ValueError as error:
        if request.kind == "approval":  # the tool's own schema, which may be of another kind
            return replace(request, schema=approval_schema(None))
        raise AgentError(str(error)) from error
    if request.default is not None:
        wrong = await in_own_thread(schema_warnings, request.schema, request.default)
        if wrong:
            raise AgentError(f"the default of {question}: {wrong[0].path}: {wrong[0].message}")
    return request


def failure(error: BaseException) -> Failed:
    """The ending of a run whose agent raised."""
    if isinstance(error, RunstoreError):
        return Failed(code=_code_of(error), message=without_keys(words_of(error)[:MAX_MESSAGE]))
    return Failed(code="agent_error", message=for_users(error))


def _code_of(error: RunstoreError) -> str:
    """An error's code. A user's code may have given it any object, whose `__str__` may raise."""
    try:
        return str(error.code)[:MAX_CODE]
    except BaseException:
        return AgentError.code
