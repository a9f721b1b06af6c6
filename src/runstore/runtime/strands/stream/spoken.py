"""Records text where a model says it, and hands strands fewer, longer deltas.

strands passes each delta of a model through five layers of generators, as two items. So a model is wrapped
for each of its calls: every delta is recorded at once as an event of its own, under the path and call of its
agent, and strands gets the text of JOIN_S as one delta. Every other chunk is handed on unchanged, after all
text before it.
"""

import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, cast

from strands.middleware import InvokeModelContext
from strands.models import Model
from strands.types.tools import ToolSpec

from runstore.core.events import Place, Reasoning, Token
from runstore.runtime.strands.errors import recognised
from runstore.runtime.strands.stream.answers import OpenAnswers
from runstore.runtime.strands.stream.chunks import Chunk, SaidText, joined, said_in
from runstore.runtime.strands.stream.redaction import may_change, may_change_request
from runstore.runtime.strands.stream.repair import Repair
from runstore.runtime.strands.stream.request_recorder import RequestRecorder, asked

JOIN_S = 0.02  # seconds of text that strands gets as one delta

Record = Callable[[Token | Reasoning], Awaitable[None]]


def spoken(
    context: InvokeModelContext,
    place: Place,
    answers: OpenAnswers,
    record: Record,
    asking: RequestRecorder,
    *,
    join_s: float = JOIN_S,
) -> InvokeModelContext:
    """The context of a model call that is recorded, and whose text `record` gets as the model says it.

    Middleware may change the text, so then the stream's text is recorded (events.py), not the model's. It may
    change the request, too; then a handler within it records that, and repairs the answer.
    """
    agent: Any = context.agent
    if may_change(agent):
        return context if may_change_request(agent) else repaired(asked(context, asking))
    model: Any = SpokenModel(context.model, place, answers, record, asking, join_s)
    return context.replace(model=cast(Model, model))


def repaired(context: InvokeModelContext) -> InvokeModelContext:
    """The context of a model call whose answer is repaired."""
    model: Any = RepairedModel(context.model)
    return context.replace(model=cast(Model, model))


class RepairedModel:
    """A model, for one call of an agent. Its answer is repaired before strands gets it."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def stream(
        self, *arguments: Any, cancel_signal: threading.Event | None = None, **options: Any
    ) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`."""
        repair = Repair(_tools(*arguments, **options))
        with recognised():
            async for given in self._model.stream(*arguments, cancel_signal=cancel_signal, **options):
                for chunk in repair.chunks(given):
                    yield chunk
        if not _is_set(cancel_signal):
            for chunk in repair.end():
                yield chunk


class SpokenModel(RepairedModel):
    """A model, for one call of an agent at a place. Its text is recorded before strands gets it."""

    def __init__(
        self,
        model: Model,
        place: Place,
        answers: OpenAnswers,
        record: Record,
        asking: RequestRecorder,
        join_s: float,
    ) -> None:
        super().__init__(model)
        self._place = place
        self._answers = answers
        self._record = record
        self._asking = asking
        self._join_s = join_s

    async def stream(
        self, *arguments: Any, cancel_signal: threading.Event | None = None, **options: Any
    ) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`. After a cancel, strands gets the next chunk at once and unrecorded."""
        repair = Repair(_tools(*arguments, **options))
        held: list[SaidText] = []  # recorded, and not yet handed on
        last: Chunk = {}  # the chunk of the last of them
        handed_at = 0.0
        await self._asking.begin(self._model, *arguments, **options)
        with recognised():
            async for given in self._model.stream(*arguments, cancel_signal=cancel_signal, **options):
                for chunk in repair.chunks(given):
                    piece = said_in(chunk)
                    if piece is None or _is_set(cancel_signal):
                        if held:
                            yield joined(last, held)
                            held = []
                        yield chunk
                        continue
                    await self._record(self._answers.say(self._place, piece))
                    if held and not piece.continues(held[-1]):
                        yield joined(last, held)
                        held = []
                    held.append(piece)
                    last, now = chunk, time.monotonic()
                    if now - handed_at >= self._join_s:
                        yield joined(last, held)
                        held, handed_at = [], now
        if held:
            yield joined(last, held)
        if not _is_set(cancel_signal):
            for chunk in repair.end():
                if (piece := said_in(chunk)) is not None:
                    await self._record(self._answers.say(self._place, piece))
                yield chunk


def _tools(messages: Any = (), tool_specs: Sequence[ToolSpec] | None = None, *_: Any, **__: Any) -> set[str]:
    """The names of the tools that a model call offers, by the arguments of `Model.stream`."""
    return {spec["name"] for spec in tool_specs or ()}


def _is_set(signal: threading.Event | None) -> bool:
    return signal is not None and signal.is_set()
