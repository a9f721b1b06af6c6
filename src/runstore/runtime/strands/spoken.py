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

from runstore.core.events import Reasoning, Token
from runstore.runtime.resume import Place
from runstore.runtime.strands.answers import Answers
from runstore.runtime.strands.chunks import Chunk, RecordedChunk, said_in
from runstore.runtime.strands.redaction import may_change

JOIN_S = 0.02  # seconds of text that strands gets as one delta

Record = Callable[[Token | Reasoning], Awaitable[None]]


def spoken(
    context: InvokeModelContext, place: Place, answers: Answers, record: Record, *, join_s: float = JOIN_S
) -> InvokeModelContext:
    """The context of a model call whose text `record` gets as the model says it.

    Middleware may change the text, so then the stream's text is recorded (events.py), not the model's.
    """
    agent: Any = context.agent
    if may_change(agent):
        return context
    model: Any = RecordedModel(context.model, place, answers, record, join_s)
    return context.replace(model=cast(Model, model))


class RecordedModel:
    """A model, for one call of an agent at a place. Its text is recorded before strands gets it."""

    def __init__(self, model: Model, place: Place, answers: Answers, record: Record, join_s: float) -> None:
        self._model = model
        self._place = place
        self._answers = answers
        self._record = record
        self._join_s = join_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def stream(
        self, *arguments: Any, cancel_signal: threading.Event | None = None, **options: Any
    ) -> AsyncGenerator[Chunk, None]:
        """See `Model.stream`. After a cancel, strands gets the next chunk at once and unrecorded."""
        held: list[Chunk] = []
        handed_at = 0.0
        async for chunk in self._model.stream(*arguments, cancel_signal=cancel_signal, **options):
            said = said_in(chunk)
            if said is None or (cancel_signal is not None and cancel_signal.is_set()):
                if held:
                    yield _joined(held)
                    held = []
                yield chunk
                continue
            await self._record(self._answers.say(self._place, said))
            if held and not _is_continued(held[-1], chunk):
                yield _joined(held)
                held = []
            held.append(chunk)
            now = time.monotonic()
            if now - handed_at >= self._join_s:
                handed_at = now
                yield _joined(held)
                held = []
        if held:
            yield _joined(held)


def _is_continued(chunk: Chunk, next: Chunk) -> bool:
    """Whether two chunks differ in nothing but their text."""
    block, after = chunk["contentBlockDelta"], next["contentBlockDelta"]
    delta, more = block["delta"], after["delta"]
    if block.get("contentBlockIndex") != after.get("contentBlockIndex"):
        return False
    if delta.keys() == more.keys() == {"reasoningContent"}:
        delta, more = delta["reasoningContent"], more["reasoningContent"]
    return len(delta) == len(more) == 1 and "text" in delta and "text" in more


def _joined(chunks: Sequence[Chunk]) -> RecordedChunk:
    """Chunks with text, as the last one of them with the text of all."""
    last = chunks[-1]
    if len(chunks) == 1:
        return RecordedChunk(last)
    text = "".join(said.text for said in map(said_in, chunks) if said)
    block = last["contentBlockDelta"]
    delta = {"reasoningContent": {"text": text}} if "reasoningContent" in block["delta"] else {"text": text}
    return RecordedChunk({**last, "contentBlockDelta": {**block, "delta": delta}})
