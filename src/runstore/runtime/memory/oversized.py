"""Splits or cuts content that is too large for one event, and rejoins messages. Pure.

A tool's result is in the log before the message that passes it to the model, so a message of several results
may omit the `content` of some. A longer text becomes several pieces, and a longer message several events, of
which all but the last have `more`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from runstore.core.codec import MAX_EVENT_BYTES, json_size, mended
from runstore.core.errors import EventTooLarge, InvalidEvent
from runstore.core.events import Custom, Event, InputReplaced, Message, Reasoning, Token, ToolProgress
from runstore.core.folds.transcript import within

# Characters of a piece of a split text; as JSON each may take 6 bytes.
PIECE_CHARACTERS = MAX_EVENT_BYTES // 8
# Bytes of a message's content in one event. The rest holds the event's other fields.
PART_BYTES = MAX_EVENT_BYTES * 7 // 8
MAX_RESULT_BYTES = 256 << 10  # bytes of UTF-8 of a result's text; the run's events hold the whole text

Blocks = Sequence[Mapping[str, Any]]


def fitting(event: Event | Custom, error: InvalidEvent) -> Iterator[Event]:
    """A refused event, as events that the log accepts.

    Raises:
        InvalidEvent: the given error, if the event cannot be split or shortened.
    """
    if isinstance(event, ToolProgress):
        yield replace(event, output=f"(left out: {error})")
    elif isinstance(event, Token | Reasoning) and isinstance(error, EventTooLarge):
        for piece in _pieces(event.text):
            yield replace(event, text=piece)
    elif isinstance(event, Message) and isinstance(error, EventTooLarge):
        *parts, last = _parts(_without_large_results(event.message["content"]))
        for part in parts:
            yield replace(event, message={**event.message, "content": part}, more=True)
        yield replace(event, message={**event.message, "content": last})
    elif isinstance(event, InputReplaced) and isinstance(error, EventTooLarge):
        yield replace(event, messages=_without_large_blocks(event.messages))
    else:
        raise error


def whole_or_pieces(text: str) -> Iterator[str]:
    """A text, in several pieces if no event can hold it."""
    if len(text) <= PIECE_CHARACTERS or json_size(text) <= PART_BYTES:
        yield text
    else:
        yield from _pieces(text)


def continued(message: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its next part."""
    content, more = list(message["content"]), list(part["content"])
    if content and more and (joined := _joined(content[-1], more[0])) is not None:
        content[-1:], more = [joined], more[1:]
    return {**message, "content": content + more}


def with_results(message: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A message with the omitted content of tool results. `results`: by tool use id."""

    def filled(block: Any) -> Any:
        result = block.get("toolResult") if isinstance(block, dict) else None
        if result is None or "content" in result or result["toolUseId"] not in results:
            return block
        return {**block, "toolResult": {**result, "content": results[result["toolUseId"]]["content"]}}

    return {**message, "content": [filled(block) for block in message["content"]]}


def is_whole(message: Mapping[str, Any]) -> bool:
    """Whether no tool result's content is omitted."""
    return all("content" in block.get("toolResult", {"content": ()}) for block in message.get("content", ()))


def _without_large_results(blocks: Blocks) -> Blocks:
    """Omit the largest of several results until the rest fits."""
    sizes = [json_size(block) for block in blocks]
    results = [n for n, block in enumerate(blocks) if "toolResult" in block]
    kept, total = list(blocks), sum(sizes)
    for n in sorted(results, key=lambda n: -sizes[n]):
        if total <= PART_BYTES:
            break
        bare = {key: value for key, value in blocks[n]["toolResult"].items() if key != "content"}
        kept[n] = {**blocks[n], "toolResult": bare}
        total += json_size(kept[n]) - sizes[n]
    return kept


def _without_large_blocks(messages: Blocks) -> list[dict[str, Any]]:
    """The messages with a note in place of their largest blocks, so that the rest fits."""
    kept = [{**message, "content": list(message["content"])} for message in messages]
    sizes = [
        (json_size(block), number, index)
        for number, message in enumerate(kept)
        for index, block in enumerate(message["content"])
    ]
    total = sum(size for size, _, _ in sizes)
    for size, number, index in sorted(sizes, reverse=True):
        if total <= PART_BYTES:
            break
        content = kept[number]["content"]
        content[index] = note = _note_of(content[index], size)
        total += json_size(note) - size
    return kept


def _note_of(block: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A block that names the omitted content. A tool's result stays one, as its call needs it."""
    [kind, *_] = block
    note = {"text": f"(left out: {kind} of {size:,} bytes)"}
    return {kind: {**block[kind], "content": [note]}} if kind == "toolResult" else note


def _parts(blocks: Blocks) -> Iterator[list[Mapping[str, Any]]]:
    part: list[Mapping[str, Any]] = []
    room = PART_BYTES
    for block in blocks:
        for number, piece in enumerate(_divided(block)):
            size = json_size(piece)
            if part and size > room:
                yield part
                part, room = [], PART_BYTES
            elif number and (joined := _joined(part[-1], piece)) is not None:
                part.pop()
                piece = joined
            part.append(piece)
            room -= size
    yield part


def _divided(block: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A block in pieces, if it is text or reasoning. The last piece has the signature."""
    if block.keys() == {"text"}:
        yield from ({"text": piece} for piece in _pieces(block["text"]))
    elif isinstance(thoughts := within(block, "reasoningContent", "reasoningText", "text"), str):
        *pieces, last = _pieces(thoughts)
        yield from ({"reasoningContent": {"reasoningText": {"text": piece}}} for piece in pieces)
        yield _with_thoughts(block, last)
    else:
        yield block


def _joined(block: Mapping[str, Any], following: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Two pieces of one block as one; None if they are not."""
    if block.keys() == following.keys() == {"text"}:
        return {"text": block["text"] + following["text"]}
    reasoning = within(block, "reasoningContent", "reasoningText")
    thoughts = within(following, "reasoningContent", "reasoningText", "text")
    if block.keys() == following.keys() and isinstance(reasoning, dict) and reasoning.keys() == {"text"}:
        return None if thoughts is None else _with_thoughts(following, reasoning["text"] + thoughts)
    return None


def _with_thoughts(block: Mapping[str, Any], text: str) -> dict[str, Any]:
    reasoning = block["reasoningContent"]
    return {"reasoningContent": {**reasoning, "reasoningText": {**reasoning["reasoningText"], "text": text}}}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, max(1, len(text)), PIECE_CHARACTERS):
        yield text[start : start + PIECE_CHARACTERS]


def text_result(text: str) -> dict[str, Any]:
    """The text cut to the limit of a result, and whether it was cut."""
    if len(text) * 4 <= MAX_RESULT_BYTES:
        return {"text": text}
    encoded = mended(text).encode()
    if len(encoded) <= MAX_RESULT_BYTES:
        return {"text": text}
    return {"text": encoded[:MAX_RESULT_BYTES].decode(errors="ignore"), "truncated": True}
