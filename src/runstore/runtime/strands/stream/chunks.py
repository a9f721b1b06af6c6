"""The text in the chunks of a model's stream. Pure, and on the path of every token."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from runstore.core.events import Reasoning, Token

Chunk = Mapping[str, Any]
NO_TEXT: dict[str, str] = {}


class SaidText(Struct, frozen=True, gc=False):
    """A text in a chunk of a model. `event`: the class of the event that it becomes.

    `block`: the index of its content block, if the model counts them. `alone`: its delta has nothing else.
    """

    event: type[Token] | type[Reasoning]
    text: str
    block: int | None
    alone: bool

    def continues(self, before: "SaidText") -> bool:
        """Whether one delta can have both texts."""
        return self.event is before.event and self.block == before.block and self.alone and before.alone


class RecordedChunk(dict[str, Any]):
    """A chunk whose text has been recorded."""


def said_in(chunk: Chunk) -> SaidText | None:
    """The text in a chunk."""
    block = chunk.get("contentBlockDelta")
    if block is None:
        return None
    delta = block["delta"]
    if text := delta.get("text"):
        return SaidText(Token, text, block.get("contentBlockIndex"), len(delta) == 1)
    reasoning = delta.get("reasoningContent") or NO_TEXT
    if text := reasoning.get("text"):
        return SaidText(Reasoning, text, block.get("contentBlockIndex"), len(delta) == len(reasoning) == 1)
    return None


def joined(last: Chunk, held: Sequence[SaidText]) -> RecordedChunk:
    """The last one of several chunks, with the text of all."""
    if len(held) == 1:
        return RecordedChunk(last)
    content = {"text": "".join([piece.text for piece in held])}
    delta = content if held[-1].event is Token else {"reasoningContent": content}
    return RecordedChunk({**last, "contentBlockDelta": {**last["contentBlockDelta"], "delta": delta}})
