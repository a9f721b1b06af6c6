"""One agent at work in a process of its runs: built, run, and its ending sent to the server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from opentelemetry import trace

from runstore.core.codec import encode
from runstore.core.errors import RunstoreError
from runstore.core.events import Completed, Failed
from runstore.core.ports import Agent, Asked
from runstore.runtime.attempts.runner import SAFE_POINT_S, failure
from runstore.runtime.attempts.spans import attempt_span, child_of, note_ending
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.holders import HELD, AttemptHolders
from runstore.runtime.process import messages
from runstore.runtime.process.pipe import PipeRecorder
from runstore.runtime.user_code import causes_of


class AgentTask:
    """The running agent of one attempt, as a task that can be cancelled.

    Args:
        held: what the agent holds, which is closed at its end; None: the process ends with its agent.
        memory_limit_mb: of this process, which an agent may exceed.
    """

    def __init__(
        self,
        begin: messages.Begin,
        catalog: AgentCatalog,
        recorder: PipeRecorder,
        *,
        held: AttemptHolders | None = None,
        memory_limit_mb: int | None = None,
    ) -> None:
        self.recorder = recorder
        self._begin = begin
        self._catalog = catalog
        self._memory_limit_mb = memory_limit_mb
        self._held = held
        self._agent: Agent | None = None
        self._task: asyncio.Task[Completed | Asked | BaseException] | None = None
        self._heard, self._hears = 0, False  # see `AgentResult`
        self._stopped = False  # before the task has begun

    async def end(self) -> messages.Ended | messages.AsksInput:
        """Run the agent on this loop, and return its ending, or what it asks."""
        HELD.set(self._held)
        with self._span() as span:
            try:
                task = self._task = asyncio.create_task(self._attempt())
                if self._stopped:
                    task.cancel()
                while not task.done():
                    with suppress(asyncio.CancelledError):  # an agent may cancel all tasks of its loop
                        await asyncio.wait({task})
            finally:
                self._agent = None
                self.let_go()
            outcome = self._outcome(task)
            if span is not None:
                note_ending(span, outcome, handed_over=False)
        return self._message(outcome)

    def cancel(self) -> None:
        """Ask the agent to stop, then cancel its task. To be called on its loop."""
        if self._agent is not None:
            self._agent.cancel()
        asyncio.get_running_loop().call_later(SAFE_POINT_S, self.stop)

    def stop(self) -> None:
        """Cancel the agent's task. To be called on its loop."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    def let_go(self) -> None:
        """Close what the agent holds. From any thread; safe to call twice, and while it is at work."""
        if self._held is not None:
            self._held.close()

    async def _attempt(self) -> Completed | Asked | BaseException:
        """The agent's result, or its error: a task with an error would end the loop, or be logged."""
        try:
            return await self._work()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # any error ends this run, and nothing else
            return error

    async def _work(self) -> Completed | Asked:
        begin = self._begin
        name = begin.context.agent_name
        self._agent = agent = await self._catalog.build(name, begin.context, begin.definition)
        done = await agent.run(begin.input, begin.history, self.recorder)
        if isinstance(done, Asked):
            return done
        self._heard, self._hears = done.heard, done.hears
        return Completed(result=done.result, usage=done.usage, unheard=[*done.unheard])

    @contextmanager
    def _span(self) -> Iterator[trace.Span | None]:
        """The server's span of the attempt as the parent of the agent's, or a span of this process."""
        begin = self._begin
        if begin.traceparent is not None:
            with child_of(begin.traceparent):
                yield None
        else:
            with attempt_span(begin.context, begin.parent) as span:
                yield span

    def _outcome(self, task: "asyncio.Task[Completed | Asked | BaseException]") -> Completed | Failed | Asked:
        if task.cancelled():
            return Failed(code="agent_error", message="the agent cancelled itself")
        error = task.exception() or task.result()
        if not isinstance(error, BaseException):
            return error
        if self._memory_limit_mb is not None and any(isinstance(e, MemoryError) for e in causes_of(error)):
            message = f"the agent needed more than {self._memory_limit_mb} MiB"
            return Failed(code="memory_limit", message=message)
        return failure(error)

    def _message(self, outcome: Completed | Failed | Asked) -> messages.Ended | messages.AsksInput:
        run = self._begin.run
        try:
            if isinstance(outcome, Asked):
                return messages.AsksInput(run, [encode(request).data for request in outcome.requests])
            encoded = encode(outcome)
        except RunstoreError as error:  # the result cannot be stored
            encoded = encode(failure(error))
        return messages.Ended(run, encoded.type, encoded.data, self._heard, self._hears)
