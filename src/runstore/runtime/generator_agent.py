"""A plain async generator function as an agent of a run."""

from asyncio import CancelledError, Task, current_task
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import Any

import msgspec
from msgspec.structs import replace

from runstore.core import questions
from runstore.core.codec import RecordedEvent, to_json
from runstore.core.definitions import harmless
from runstore.core.errors import AgentError
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Custom,
    Event,
    InputRequested,
    Place,
    Request,
    Token,
)
from runstore.core.inputs import fold_inputs
from runstore.core.ports import AgentResult, Asked, RunContext, RunRecorder
from runstore.core.times import now_ms
from runstore.runtime.memory.oversized import MAX_RESULT_BYTES, text_result, whole_or_pieces
from runstore.runtime.memory.request_references import NextRequest, Requests
from runstore.runtime.user_code import accepts_context, failed

Given = tuple[str, Any]  # a question's prompt, and its answer
CHANGED = "question_changed"
SHOWN = 100  # characters of a prompt in an error

GeneratorFunction = Callable[..., AsyncGenerator[Any, None]]


class UnansweredQuestion(BaseException):
    """The generator has asked a question that has no answer yet: its attempt ends here."""


class GivenAnswers:
    """The answers to a generator's questions, in the order in which it asks them again."""

    def __init__(self, agent: str) -> None:
        self.asked: list[InputRequested] = []  # in this attempt, without an answer yet
        self.recorder: RunRecorder | None = None
        self.heard = 0  # the seq of the last added message
        self.changed: AgentError | None = None  # a question differs from the one that was answered
        self._agent = agent
        self._given: dict[str, list[Given]] = defaultdict(list)
        self._task: Task[Any] | None = None  # the one that calls the generator

    async def added(self) -> list[Any]:
        """The messages that people have added since the last call."""
        if self.recorder is None or not (found := await self.recorder.added(self.heard)):
            return []
        self.heard = found[-1].seq
        return [each.content for each in found]

    def recall(self, history: Iterable[RecordedEvent]) -> None:
        """Take the answers that earlier attempts got; called in the task that calls the generator."""
        self._task = current_task()
        for each in fold_inputs(history).values():
            if each.given is not None and each.request.name is not None:
                self._given[each.request.name].append((each.request.prompt, each.given.answer))

    def take(self, question: questions.Question) -> Any:
        """The answer to a question; to the same question asked again, the next one.

        Raises:
            UnansweredQuestion: it has no answer yet.
        """
        name = sha256(to_json([question.prompt, question.schema, question.data])).hexdigest()[:32]
        if given := self._given[name]:
            return given.pop(0)[1]
        request = InputRequested(agent=self._agent, request_id="", name=name, prompt=question.prompt)
        request = questions.put(question, request, now_ms())
        self._check(request.prompt)
        self.asked.append(request)
        raise UnansweredQuestion

    def _check(self, prompt: str) -> None:
        """Note whether another question is asked instead of an answered one.

        The generator asks in a certain order itself. The order of its tasks may differ in each attempt.
        """
        left = [answered for answers in self._given.values() for answered, _ in answers]
        if left and current_task() is self._task and not self.asked:
            self.changed = AgentError(
                f"the agent's generator asks {prompt[:SHOWN]!r}, and no longer {left[0][:SHOWN]!r}, "
                "which was answered: a question must have the same prompt, schema and data in each attempt",
                code=CHANGED,
            )


class GeneratorContext(RunContext, frozen=True, kw_only=True):
    """A generator's parameter named `ctx`: its run, and the people that it may ask."""

    answers: GivenAnswers

    async def added(self) -> list[Any]:
        """The messages that people have added to the run since the last call: texts, or content blocks."""
        return await self.answers.added()

    async def ask(
        self,
        prompt: str,
        *,
        schema: dict[str, Any] | None = None,
        data: Any = None,
        expires_s: float | None = None,
        default: Any = None,
    ) -> Any:
        """Ask a person; returns the answer. The arguments are those of `Question`.

        Without an answer, the attempt ends here, and the run waits. The next attempt begins the generator
        again from its start, and this call returns the answer. If the generator asks something else there,
        its run fails with `question_changed`.
        """
        return self.answers.take(questions.Question(prompt, schema, data, expires_s, default))


class GeneratorAgent:
    """Calls the function with the run's input, and with `ctx` if it has a parameter of that name.

    Each yielded `str` becomes an `llm.token`, each `{"type": "custom.…", "data": …}` an event, and each
    `ctx.request(…)` the `llm.request` of a model that the function is about to ask. It has no
    messages to resume from: a new attempt restarts from the input, with the answers that people gave.
    """

    def __init__(
        self, function: GeneratorFunction, context: RunContext, *, record_requests: bool = True
    ) -> None:
        self._function = function
        self._answers = GivenAnswers(context.agent_name)
        fields = {name: getattr(context, name) for name in RunContext.__struct_fields__}
        self._context = GeneratorContext(**fields, answers=self._answers)
        self._records_requests = record_requests

    async def run(
        self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder
    ) -> AgentResult | Asked:
        """See `Agent.run`."""
        name = self._context.agent_name
        self._answers.recall(history)
        self._answers.recorder = recorder
        await recorder.record(AgentStarted(agent=name))
        try:
            requests = Requests(self._context, input, history, off=not self._records_requests)
            text = await self._follow(input, recorder, requests)
            if self._answers.changed is not None:
                raise self._answers.changed
            if self._answers.asked:
                return Asked(self._answers.asked)
        except AgentError:
            await recorder.record(AgentFinished(agent=name))
            raise
        await recorder.record(AgentFinished(agent=name))
        return AgentResult(result=text_result(text), usage={}, heard=self._answers.heard)

    def cancel(self) -> None:
        """Does nothing: the generator ends when its task is cancelled."""

    async def _follow(self, input: Any, recorder: RunRecorder, requests: Requests) -> str:
        texts: list[str] = []
        room = MAX_RESULT_BYTES
        async with aclosing(_Guarded(self._start(input), self._answers)) as items:
            async for item in items:
                if self._answers.asked:
                    break  # the generator goes on without its answer
                if isinstance(item, dict) and item.get("type") == Request.type:
                    place = Place(self._context.agent_name)
                    await requests.ask(place, next_request(item.get("data")), recorder.record)
                    continue
                for event in events_of(item, self._context.agent_name, "the agent's generator yielded"):
                    await recorder.record(event)
                if isinstance(item, str) and room >= 0:
                    texts.append(item)
                    room -= len(item)
        return "".join(texts)

    def _start(self, input: Any) -> AsyncGenerator[Any, None]:
        try:
            if accepts_context(self._function):
                return self._function(input, ctx=self._context)
            return self._function(input)
        except TypeError as error:
            raise AgentError(
                f"the agent's generator function cannot be called with an input: {error}"
            ) from error


class _Guarded:
    """The generator, with its exceptions as AgentError; exceptions of the recorder pass unchanged."""

    def __init__(self, generator: AsyncGenerator[Any, None], answers: GivenAnswers) -> None:
        self._generator = generator
        self._answers = answers

    def __aiter__(self) -> "_Guarded":
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._generator)
        except (StopAsyncIteration, CancelledError, GeneratorExit, AgentError):
            raise
        except BaseException as error:
            if self._answers.asked and not isinstance(error, Exception):  # also one in a group of tasks
                raise StopAsyncIteration from None
            raise failed("the agent's generator", error) from error

    async def aclose(self) -> None:
        await self._generator.aclose()


def next_request(data: Any) -> NextRequest:
    """The data of an `llm.request` that an agent's function yields.

    Raises:
        AgentError: it is malformed.
    """
    try:
        request = msgspec.convert(data, NextRequest)
    except msgspec.ValidationError as error:
        raise AgentError(f"the data of an {Request.type} is malformed: {error}") from error
    parameters = request.parameters or {}
    if not isinstance(parameters, dict):
        raise AgentError(f"the `parameters` of an {Request.type} must be an object")
    return replace(request, parameters=harmless(parameters))


def events_of(item: Any, agent: str, origin: str) -> Iterator[Event | Custom]:
    """An agent's item as an event, or as several if it is a text that is too large for one.

    Args:
        origin: begins the error message, such as "the code emitted".

    Raises:
        AgentError: it is neither text nor an event.
    """
    if isinstance(item, str):
        yield from (Token(agent=agent, text=piece) for piece in whole_or_pieces(item))
    else:
        yield _custom(item, origin)


def _custom(item: Any, origin: str) -> Custom:
    if isinstance(item, dict) and isinstance(item.get("type"), str) and item.keys() <= {"type", "data"}:
        return Custom(item["type"], item.get("data"))
    shown = repr(item)[:100] if isinstance(item, dict) else type(item).__name__
    raise AgentError(
        f'{origin} {shown}; it may be text (str) or an event ({{"type": "custom.…", "data": …}})'
    )
