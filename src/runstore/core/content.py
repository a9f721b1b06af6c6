"""A run's input as content blocks: text, and media, which arrive as base64 and go to the model as bytes.

The shapes are those of strands' content blocks, which follow the Bedrock Converse API
(https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html). Each model's provider
decides which of them it accepts.
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from runstore.core.errors import AgentError

MAX_BLOCKS = 100  # blocks of one input; MAX_EVENT_BYTES limits the whole input
MAX_DOCUMENT_NAME = 200  # characters
MEDIA = ("image", "document", "video")  # blocks whose source is bytes in strands, and base64 in JSON

# Checks that decoding does by itself, for a JSON Schema.
BASE64 = Meta(
    min_length=1,
    extra_json_schema={
        "pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"
    },
)
SIGNATURES = (  # the first bytes of each format of an image; those of a WebP have their length in between
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("jpeg", re.compile(rb"\xff\xd8\xff")),
    ("gif", re.compile(rb"GIF8[79]a")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
)
ONE_FIELD = Meta(extra_json_schema={"minProperties": 1, "maxProperties": 1})


class MediaSource(Struct, frozen=True, forbid_unknown_fields=True):
    """The content itself: base64 (RFC 4648, section 4, with padding) in JSON."""

    bytes: Annotated[bytes, BASE64]


class Image(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["png", "jpeg", "gif", "webp"]
    source: MediaSource


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_DOCUMENT_NAME)]
    source: MediaSource


class Video(Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["flv", "mkv", "mov", "mpeg", "mpg", "mp4", "three_gp", "webm", "wmv"]
    source: MediaSource


class ContentBlock(Struct, frozen=True, forbid_unknown_fields=True):
    """One piece of an input: exactly one of its fields."""

    text: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    image: Image | UnsetType = UNSET
    document: Document | UnsetType = UNSET
    video: Video | UnsetType = UNSET

    def __post_init__(self) -> None:
        kinds = self.__struct_fields__
        if sum(getattr(self, kind) is not UNSET for kind in kinds) != 1:
            raise ValueError(f"a content block must have exactly one of {', '.join(kinds)}")


ContentBlocks = Annotated[list[Annotated[ContentBlock, ONE_FIELD]], Meta(min_length=1, max_length=MAX_BLOCKS)]
Input = str | ContentBlocks


def to_json(input: Input) -> str | list[dict[str, Any]]:
    """An input as stored in the log: text, or blocks with base64 for bytes."""
    if isinstance(input, str):
        return input
    blocks: list[dict[str, Any]] = msgspec.to_builtins(input)
    return blocks


def input_messages(input: Any) -> list[dict[str, Any]]:
    """A run's input as the messages that begin its conversation, with bytes where JSON had base64.

    Raises:
        AgentError: it is neither text, nor a list of content blocks, nor a list of messages.
    """
    if isinstance(input, str):
        return [{"role": "user", "content": [{"text": input}]}]
    if isinstance(input, list) and input and all(isinstance(item, dict) and item for item in input):
        if all({"role", "content"} <= item.keys() for item in input):
            return [message_with_bytes(item) for item in input]
        if not any("role" in item for item in input):
            return [{"role": "user", "content": [with_bytes(item) for item in input]}]
    raise AgentError(
        "the input of an agent must be text, a list of content blocks, or a list of messages; "
        f"this one is {type(input).__name__ if not isinstance(input, list) else 'a list of something else'}",
        code="invalid_input",
    )


def asked_messages(input: Any) -> list[dict[str, Any]]:
    """A run's input without its instructions, as the messages that an agent adds to its conversation.

    Neighbours of one role are one message, also those that had instructions between them: models want the
    roles to alternate.

    Raises:
        AgentError: as `input_messages`.
    """
    return joined(message for message in input_messages(input) if message["role"] != "system")


def joined(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with neighbours of the same role joined."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            found[-1] = {**found[-1], "content": [*found[-1]["content"], *message["content"]]}
        else:
            found.append(message)
    return found


def without_empty(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages without empty user messages, which providers refuse; neighbours that then meet are joined.

    A hook that takes the tool calls out of an answer leaves an empty message: the results of no tools.
    """
    found: list[dict[str, Any]] = []
    dropped = False
    for message in messages:
        if message["role"] == "user" and not message["content"]:
            dropped = True
            continue
        found[-1:] = joined([*found[-1:], message]) if dropped else [*found[-1:], message]
        dropped = False
    return found


def message_with_bytes(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in strands' form: `with_bytes` for each of its blocks."""
    content = message.get("content")
    blocks = [with_bytes(block) for block in content] if isinstance(content, list) else content
    return {**message, "content": blocks}


def with_bytes(block: Any) -> Any:
    """A content block in strands' form, with bytes in place of base64.

    Raises:
        AgentError: the base64 is invalid.
    """
    if not isinstance(block, dict):
        return block
    return {key: _revived(key, inner) for key, inner in block.items()}


def _revived(kind: str, inner: Any) -> Any:
    if not isinstance(inner, dict):
        return inner
    if kind == "toolResult":
        return message_with_bytes(inner)
    if kind == "guardContent":
        return with_bytes(inner)
    if kind == "reasoningContent" and isinstance(inner.get("redactedContent"), str):
        return {**inner, "redactedContent": _decoded(inner["redactedContent"])}
    source = inner.get("source") if kind in MEDIA else None
    if isinstance(source, dict) and isinstance(source.get("bytes"), str):
        data = _decoded(source["bytes"])
        known = {"format": format_of(data) or inner.get("format")} if kind == "image" else {}
        return {**inner, **known, "source": {**source, "bytes": data}}
    return inner


def format_of(image: bytes) -> str | None:
    """The format of an image by its first bytes; None if they are of no known format.

    Clients name a format by a file's name, or always the same one. Providers look at the bytes, too, and
    refuse the whole conversation where both differ.
    """
    return next((name for name, signature in SIGNATURES if signature.match(image)), None)


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise AgentError(
            f"the bytes of an image or document are not base64: {error}", code="invalid_input"
        ) from error
