"""Repairs the chunks of a model's stream where a provider's server breaks its protocol. Pure.

Servers that speak OpenAI's protocol leave parts of it out: the reason why an answer ended, ids of tool calls,
numbers of tokens. strands passes that on. It then loses the text, calls a tool without its input, or asks the
model again without end.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from math import isfinite
from typing import Any
from uuid import uuid4

from runstore.core.arguments import read_arguments
from runstore.core.codec import mended
from runstore.core.errors import AgentError
from runstore.runtime.strands.stream.chunks import Chunk
from runstore.runtime.strands.stream.end_reasons import ending_of
from runstore.runtime.strands.tool_inputs import left_out

BROKEN_OFF = "the model's answer broke off: its stream ended before the answer did"
NO_CALL = "the model stopped to call a tool, but named none"
NO_TEXT = "the model's answer has content that is neither text nor a list of parts with text"
NO_OBJECT = "is not a JSON object"
FIRST_PIECE = "firstPiece"  # our key in strands' start of a tool use: the piece of its input beside the name
# Of `functions.add` and `default_api:add`. Any other prefix may name another server, whose tool is not ours.
_TEMPLATE = re.compile(r"(?:functions|default_api|tools)[.:]")
COUNTS = ("inputTokens", "outputTokens", "totalTokens")


class Repair:
    """Repairs one answer, chunk by chunk.

    Args:
        tools: the names of the tools that the model may call.
    """

    def __init__(self, tools: Collection[str] = ()) -> None:
        self._tools = tools
        self._half: Chunk | None = None  # its text is the first half of a character
        self._open = False  # a content block has begun and not ended
        self._said = False  # anything at all
        self._spoke = False
        self._use: dict[str, Any] | None = None  # the tool use that has begun and not ended
        self._input: list[str] = []  # the pieces of its input
        self._use_ids: set[str] = set()
        self._stop: Chunk | None = None  # a possible end: its last block is open, or it has no reason
        self._failure: AgentError | None = None  # the failure behind the end of the answer

    def chunks(self, chunk: Chunk) -> Sequence[Chunk]:
        """The chunks to use instead of this one.

        Raises:
            AgentError: the answer cannot be repaired.
        """
        block = chunk.get("contentBlockDelta")
        if block is None:
            return [*self._rest(), *self._other(chunk)]
        self._said = True
        delta = block["delta"]
        if self._use is not None and "toolUse" in delta:
            piece = delta["toolUse"].get("input") or ""
            self._input.append(piece if isinstance(piece, str) else json.dumps(piece))
            return ()
        text = _text_of(delta)
        if text is None:
            return list(self._rest()) if "text" in delta else [*self._rest(), chunk]
        if self._half is None and isinstance(text, str) and text.isascii():
            self._spoke = self._spoke or "text" in delta
            return (chunk,)
        return self._text(chunk, text if isinstance(text, str) else "".join(_texts(text)))

    def end(self) -> Sequence[Chunk]:
        """The chunks that are left at the end of the stream.

        Raises:
            AgentError: the stream ended before the answer.
        """
        if self._failure is not None:
            raise self._failure
        if self._open or self._stop is not None:
            raise AgentError(BROKEN_OFF, code="model_unavailable")
        return list(self._rest())

    def _text(self, chunk: Chunk, text: str) -> Sequence[Chunk]:
        """The text that came so far, without half a character at its end."""
        before: list[Chunk] = []
        if self._half is not None and _kind(self._half) == _kind(chunk):
            text = _text_of(self._half["contentBlockDelta"]["delta"]) + text
            self._half = None
        before += self._rest()
        if "\ud800" <= text[-1:] <= "\udbff":
            self._half = _with_text(chunk, text[-1])
            text = text[:-1]
        self._spoke = self._spoke or "text" in chunk["contentBlockDelta"]["delta"]
        return [*before, _with_text(chunk, mended(text))] if text else before

    def _rest(self) -> Iterator[Chunk]:
        if self._half is not None:
            half, self._half = self._half, None
            yield _with_text(half, mended(_text_of(half["contentBlockDelta"]["delta"])))

    def _other(self, chunk: Chunk) -> Sequence[Chunk]:
        if (begun := chunk.get("contentBlockStart")) is not None:
            self._open = True
            return [self._begin_use(chunk) if "toolUse" in begun.get("start", {}) else chunk]
        if "contentBlockStop" in chunk:
            self._open = False
            return [*self._end_use(), chunk]
        if "messageStop" in chunk:
            ending = ending_of(chunk["messageStop"])
            self._failure = ending.failure
            chunk = {**chunk, "messageStop": {**chunk["messageStop"], "stopReason": ending.stop_reason}}
            if self._open or (ending.missing and self._said):
                self._stop = chunk
                return ()
            return [self._ended(chunk)]
        if "metadata" in chunk:
            return [*self._late_end(), _with_counts(chunk)]
        return [chunk]

    def _begin_use(self, chunk: Chunk) -> Chunk:
        """The start of a tool use, with an id of its own."""
        begun = chunk["contentBlockStart"]
        use = begun["start"]["toolUse"]
        use_id = use.get("toolUseId")
        if not use_id or use_id in self._use_ids:
            use_id = f"call-{uuid4().hex}"
        name = use.get("name")
        if name:  # strands leaves out a call without a name
            self._use_ids.add(use_id)
            name = self._known(name)
        first = use.get(FIRST_PIECE)
        self._use = {name: value for name, value in use.items() if name != FIRST_PIECE} | {
            "toolUseId": use_id,
            "name": name,
        }
        self._input = [first] if isinstance(first, str) else []
        return {**chunk, "contentBlockStart": {**begun, "start": {**begun["start"], "toolUse": self._use}}}

    def _known(self, name: str) -> str:
        """The name of a tool that a call means with the words of a model's own template around it."""
        if name in self._tools:
            return name
        bare = name.partition("<|")[0].strip()
        return next((each for each in (bare, _TEMPLATE.sub("", bare, count=1)) if each in self._tools), name)

    def _end_use(self) -> Iterator[Chunk]:
        """The input of a tool use, in one delta. strands would call a tool without input that is not JSON."""
        if self._use is None:
            return
        use, self._use = self._use, None
        try:
            text = _object("".join(self._input))
        except ValueError:
            text = json.dumps(left_out(use.get("name") or "", NO_OBJECT))
        if text:
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": text}}}}

    def _late_end(self) -> Iterator[Chunk]:
        """The end of an answer that has no reason for its end, but is complete, since its usage has come."""
        if self._stop is not None:
            stop, self._stop = self._stop, None
            if self._open:
                self._open = False
                yield from self._end_use()
                yield {"contentBlockStop": {}}
            yield self._ended(stop)

    def _ended(self, chunk: Chunk) -> Chunk:
        reason = chunk["messageStop"].get("stopReason")
        if reason != "tool_use" or self._use_ids:
            return chunk
        if not self._spoke:
            raise AgentError(NO_CALL, code="model_invalid_answer")
        return {**chunk, "messageStop": {**chunk["messageStop"], "stopReason": "end_turn"}}


def _kind(chunk: Chunk) -> str:
    return "text" if "text" in chunk["contentBlockDelta"]["delta"] else "reasoning"


def _text_of(delta: Any) -> Any:
    """The text or the reasoning of a delta; None without either."""
    if "text" in delta:
        return delta["text"]
    reasoning = delta.get("reasoningContent")
    return reasoning.get("text") if reasoning else None


def _with_text(chunk: Chunk, text: str) -> Chunk:
    block = chunk["contentBlockDelta"]
    delta = block["delta"]
    new = (
        {"text": text}
        if "text" in delta
        else {"reasoningContent": {**delta["reasoningContent"], "text": text}}
    )
    return {**chunk, "contentBlockDelta": {**block, "delta": {**delta, **new}}}


def _texts(content: Any) -> Iterator[str]:
    """The text of content in parts, as Mistral's reasoning models send it."""
    if not isinstance(content, list):
        raise AgentError(NO_TEXT, code="model_invalid_answer")
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text


def _object(text: str) -> str:
    """The JSON of a tool's input; "" without input.

    Raises:
        ValueError: it is not JSON, or no object.
    """
    value = read_arguments(text)
    # An escape may be half a character, which no provider's request can hold.
    return mended(json.dumps(value, ensure_ascii=False)) if value else ""


def _with_counts(chunk: Chunk) -> Chunk:
    """Numbers where a provider sent none; strands adds them up."""
    usage = chunk["metadata"].get("usage")
    if usage is None or all(type(usage.get(name)) is int for name in COUNTS):
        return chunk
    counts = {name: _count(usage.get(name)) for name in COUNTS}
    return {**chunk, "metadata": {**chunk["metadata"], "usage": {**usage, **counts}}}


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and isfinite(value) else 0
