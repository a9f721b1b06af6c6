"""A run's input as content blocks: text, and media, which arrive as base64 and go to the model as bytes.

The shapes are those of strands' content blocks, which follow the Bedrock Converse API
(https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html). Each model's provider
decides which of them it accepts.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_BLOCKS = 100  # blocks of one input; MAX_EVENT_BYTES limits the whole input
MAX_DOCUMENT_NAME = 200  # characters

# Checks that decoding does by itself, for a JSON Schema.
BASE64 = Meta(
    min_length=1,
    extra_json_schema={
        "pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$"
    },
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
