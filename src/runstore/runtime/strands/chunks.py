"""The text in the chunks of a model's stream. Pure, and on the path of every token."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from runstore.core.events import Reasoning, Token

Chunk = Mapping[str, Any]
NO_TEXT: dict[str, str] = {}


class Said(Struct, frozen=True, gc=False):
    """A text of a model, and the class of the event that it becomes."""

    event: type[Token] | type[Reasoning]
    text: str


class RecordedChunk(dict[str, Any]):
    """A chunk whose text has been recorded."""


def said_in(chunk: Chunk) -> Said | None:
    """The text in a chunk."""
    block = chunk.get("contentBlockDelta")
    if block is None:
        return None
    delta = block["delta"]
    if text := delta.get("text"):
        return Said(Token, text)
    text = (delta.get("reasoningContent") or NO_TEXT).get("text")
    return Said(Reasoning, text) if text else None
