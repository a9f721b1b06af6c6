"""A plain async generator function as an agent of a run."""

from asyncio import CancelledError
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
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
    Request,
    Token,
)
from runstore.core.inputs import fold_inputs
from runstore.core.ports import AgentResult, Asked, RunContext, RunRecorder
from runstore.core.times import now_ms
from runstore.runtime.memory.oversized import MAX_RESULT_BYTES, text_result
from runstore.runtime.memory.requests import Question, Requests
from runstore.runtime.user_code import accepts_context, failed

GeneratorFunction = Callable[..., AsyncGenerator[Any, None]]


class Asking(BaseException):
    """The generator has asked a question that has no answer yet: its attempt ends here."""


class Answers:
    """The answers to a generator's questions, in the order in which it asks them again."""

    def __init__(self, agent: str) -> None:
        self.asked: list[InputRequested] = []  # in this attempt, without an answer yet
        self.recorder: RunRecorder | None = None
        self._heard = 0  # the seq of the last added message
        self._agent = agent
        self._given: dict[str, list[Any]] = defaultdict(list)

    async def added(self) -> list[Any]:
        """The messages that people have added since the last call."""
        if self.recorder is None or not (found := await self.recorder.added(self._heard)):
            return []
        self._heard = found[-1].seq
        return [each.content for each in found]

    def recall(self, history: Iterable[RecordedEvent]) -> None:
        """Take the answers that earlier attempts got."""
        for each in fold_inputs(history).values():
            if each.given is not None and each.request.name is not None:
                self._given[each.request.name].append(each.given.answer)

    def take(self, question: questions.Question) -> Any:
        """The answer to a question; to the same question asked again, the next one.

        Raises:
            Asking: there is none yet.
        """
        name = sha256(to_json([question.prompt, question.schema, question.data])).hexdigest()[:32]
        if given := self._given[name]:
            return given.pop(0)
        request = InputRequested(agent=self._agent, request_id="", name=name, prompt=question.prompt)
        self.asked.append(questions.put(question, request, now_ms()))
        raise Asking


class GeneratorContext(RunContext, frozen=True, kw_only=True):
    """A generator's parameter named `ctx`: its run, and the people that it may ask."""

    answers: Answers

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
        again from its start, and this call returns the answer.
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
        self._answers = Answers(context.agent_name)
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
            if self._answers.asked:
                return Asked(self._answers.asked)
        except AgentError:
            await recorder.record(AgentFinished(agent=name))
            raise
        await recorder.record(AgentFinished(agent=name))
        return AgentResult(result=text_result(text), usage={})

    def cancel(self) -> None:
        """Does nothing: the generator ends when its task is cancelled."""

    async def _follow(self, input: Any, recorder: RunRecorder, requests: Requests) -> str:
        said: list[str] = []
        room = MAX_RESULT_BYTES
        async with aclosing(_Guarded(self._start(input), self._answers)) as items:
            async for item in items:
                if self._answers.asked:
                    break  # the generator goes on without its answer
                if isinstance(item, dict) and item.get("type") == Request.type:
                    place = (self._context.agent_name, None)
                    await requests.ask(place, question_of(item.get("data")), recorder.record)
                    continue
                event = event_of(item, self._context.agent_name, "the agent's generator yielded")
                await recorder.record(event)
                if isinstance(item, str) and room >= 0:
                    said.append(item)
                    room -= len(item)
        return "".join(said)

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

    def __init__(self, generator: AsyncGenerator[Any, None], answers: Answers) -> None:
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


def question_of(data: Any) -> Question:
    """The data of an `llm.request` that an agent's function yields.

    Raises:
        AgentError: it is malformed.
    """
    try:
        question = msgspec.convert(data, Question)
    except msgspec.ValidationError as error:
        raise AgentError(f"the data of an {Request.type} is malformed: {error}") from error
    parameters = question.parameters or {}
    if not isinstance(parameters, dict):
        raise AgentError(f"the `parameters` of an {Request.type} must be an object")
    return replace(question, parameters=harmless(parameters))


def event_of(item: Any, agent: str, said: str) -> Event | Custom:
    """An agent's item as an event. `said`: the verb for the message.

    Raises:
        AgentError: it is neither text nor an event.
    """
    if isinstance(item, str):
        return Token(agent=agent, text=item)
    if isinstance(item, dict) and isinstance(item.get("type"), str) and item.keys() <= {"type", "data"}:
        return Custom(item["type"], item.get("data"))
    shown = repr(item)[:100] if isinstance(item, dict) else type(item).__name__
    raise AgentError(f'{said} {shown}; it may be text (str) or an event ({{"type": "custom.…", "data": …}})')
