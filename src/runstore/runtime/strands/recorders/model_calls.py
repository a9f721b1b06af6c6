"""Records a run's model calls: why one failed, when it is retried, and whether its text counts."""

import sys
from collections import deque
from traceback import walk_tb
from types import FrameType

import structlog
from strands import Agent, ModelRetryStrategy
from strands.hooks import AfterModelCallEvent, BeforeModelCallEvent, HookOrder, HookRegistry
from typing_extensions import override

from runstore.core.errors import AgentError
from runstore.core.events import DiscardReason, Event, Place, Retrying, Usage
from runstore.runtime.strands.errors import described, is_throttled, model_error_code, sentence_of, unwrapped
from runstore.runtime.strands.internals import next_wait_of, retry_strategy_of
from runstore.runtime.strands.provider_words import ProviderWords
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.recorders.tools import OVER
from runstore.runtime.strands.stream.open_calls import OpenCalls

FIRST = HookOrder.SDK_FIRST - 1  # the hook runs before all others, and before strands' retry strategy waits
LAST = HookOrder.SDK_LAST + 1  # the hook runs after all others
HOOKS = HookRegistry.__module__  # it calls every hook
ROOM = 120  # frames of the stack that a model call, with its provider's package, may need
TOO_MANY = "too_many_model_calls"
MAX_ERRORS = 64  # remembered errors of models; more agents hardly fail at once

log = structlog.get_logger(__name__)


class ModelCalls:
    """Turns strands' hooks around model calls into events of the run's log."""

    def __init__(self, recording: Recording) -> None:
        self.errors: deque[BaseException] = deque(maxlen=MAX_ERRORS)  # errors that models raised, newest last
        self.words = ProviderWords()
        self.open = OpenCalls()
        self._models = recording.agents.models
        self._run_id = recording.context.run_id
        self._recorder = recording.recorder
        self._answers = recording.answers
        self._place = recording.agents.place
        self._failures: dict[Place, int] = {}  # consecutive failed calls
        self._announced: set[Place] = set()  # places whose next call was announced before a wait
        self._given_up: dict[Place, str] = {}  # the code of the failure that ended an agent

    def install(self, agent: Agent) -> None:
        """Hook an agent. Call it once for each agent."""
        agent.add_hook(self.calling, BeforeModelCallEvent, order=LAST)
        agent.add_hook(self.called, AfterModelCallEvent, order=FIRST)
        agent.add_hook(self.settled, AfterModelCallEvent, order=LAST)

    def failure_of(self, call: Place) -> str | None:
        """The code of the last model failure that ended an agent of a tool call; a second call returns None.

        Args:
            call: the tool's path and tool use. Its agents work there, and beside and below each other.
        """
        path, use_id = call
        agents = [
            place
            for place in self._given_up
            if place.call_id == use_id and (place.agent == path or place.agent.startswith(f"{path}/"))
        ]
        codes = [self._given_up.pop(place) for place in agents]
        return codes[-1] if codes else None

    def failed(self, place: Place, error: BaseException) -> None:
        """Record the failure of a model call that strands has no hooks for; it also ended the agent."""
        self._given_up[place] = self._note(place, error)

    async def calling(self, event: BeforeModelCallEvent) -> None:
        """A model is about to be called, unless a hook has refused the call."""
        if event.cancel:
            return
        if (limit := sys.getrecursionlimit()) - _depth(sys._getframe()) < ROOM:
            path, _ = self._place(event.agent)
            self._recorder.close(AgentError(_too_many(path, limit), code=TOO_MANY))
            event.cancel = OVER
            return
        self.open.begin(self._place(event.agent))

    def unfinished(self) -> list[Usage]:
        """Close all open calls: the agents have been left."""
        return [usage for place in self.open.places for usage in self._break_off(place)]

    async def called(self, event: AfterModelCallEvent) -> None:
        """A model call has ended; no other hook has run yet."""
        error, place = event.exception, self._place(event.agent)
        if error is None:
            self._failures.pop(place, None)
            return
        code = self._note(place, error)
        self._failures[place] = self._failures.get(place, 0) + 1
        wait_s = wait_before_retry(event.agent, error)
        if wait_s is not None:
            self._announced.add(place)
            await self._retrying(place, code, wait_s)

    async def settled(self, event: AfterModelCallEvent) -> None:
        """A model call has ended, and every other hook has run."""
        place, error = self._place(event.agent), event.exception
        await self._settle_usage(place, event)
        announced = place in self._announced
        self._announced.discard(place)
        if error is None:
            if event.retry:
                await self._take_back(place, "rejected")
            elif event.stop_response is not None and event.stop_response.stop_reason == "max_tokens":
                self._answers.cut.add(place)
            elif event.stop_response is not None and event.stop_response.stop_reason == "cancelled":
                self._answers.cancelled.add(place)
        elif not event.retry:
            self._failures.pop(place, None)
            if not self._is_of_hook(error):
                self._given_up[place] = model_error_code(error)
            await self._take_back(place, "failed")
        elif not announced:  # a hook waited itself, or a router switched to another model
            await self._retrying(place, model_error_code(error), 0)

    async def _settle_usage(self, place: Place, event: AfterModelCallEvent) -> None:
        """Record that a call broke off before its usage was reported."""
        if event.exception is None and (
            event.stop_response is None or event.stop_response.stop_reason != "cancelled"
        ):
            self.open.close(place)
            return
        for usage in self._break_off(place, silent=event.exception is None):
            await self._recorder.record(usage)

    def _break_off(self, place: Place, *, silent: bool = True) -> list[Usage]:
        return self.open.break_off(place, self._models.get(place.agent), silent=silent)

    def _note(self, place: Place, error: BaseException) -> str:
        """Log and remember an error that a model raised; return its code."""
        if self._is_of_hook(error):
            return "agent_error"
        code = model_error_code(error)
        self.errors.append(error)
        # strands wrote the message of an invalid input itself, and runstore that of an AgentError.
        if code != "invalid_input" and not isinstance(unwrapped(error), AgentError):
            self.words.add(error, sentence_of(code))
        log.warning("model_failed", run_id=self._run_id, agent=place.agent, code=code, error=described(error))
        return code

    def _is_of_hook(self, error: BaseException) -> bool:
        """Whether a hook around the call has raised an error of its own, which strands takes for the model's.

        Not a hook of strands: it may ask a model, to sum up the conversation.
        """
        if any(error is each for each in self.errors):
            return False
        names = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
        if HOOKS not in names:
            return False
        within = names[len(names) - names[::-1].index(HOOKS) :]
        return not any(name.startswith("strands.") for name in within)

    async def _retrying(self, place: Place, code: str, wait_s: float) -> None:
        path, call_id = place
        retrying = Retrying(
            agent=path, call_id=call_id, code=code, message=sentence_of(code),
            attempt=self._failures.get(place, 1), wait_s=wait_s,
        )  # fmt: skip
        await self._take_back(place, "retried", retrying)

    async def _take_back(self, place: Place, reason: DiscardReason, *then: Event) -> None:
        for event in (*self._answers.take_back(place, reason), *then):
            await self._recorder.commit(event)


def _depth(frame: FrameType | None) -> int:
    """The frames of the stack."""
    frames = 0
    while frame is not None:
        frame = frame.f_back
        frames += 1
    return frames


def _too_many(path: str, limit: int) -> str:
    return (
        f"agent {path!r} calls its model without an end: strands nests each call in the one before it, and "
        f"Python's recursion limit of {limit:,} frames leaves no room for another one"
    )


class Retries(ModelRetryStrategy):
    """strands' exponential back-off. Some of its providers (Ollama's, LiteLLM's) pass a 429 on unchanged."""

    @override
    def is_retryable(self, exception: Exception) -> bool:
        return is_throttled(exception)


def wait_before_retry(agent: Agent, error: Exception) -> float | None:
    """Seconds that strands' retry strategy is about to wait; None when it will not call the model again.

    strands does not announce retries, so this evaluates its strategy in the same way.
    """
    strategy = retry_strategy_of(agent)
    try:
        if not isinstance(strategy, ModelRetryStrategy) or not strategy.is_retryable(error):
            return None
        return next_wait_of(strategy)
    except Exception:  # a custom strategy may differ from strands'; its retry is reported afterwards
        return None
