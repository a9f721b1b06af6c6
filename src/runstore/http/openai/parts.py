"""Reads the content of a chat's messages: text, images, and tool calls and results that are parts. Pure."""

from typing import Any, NamedTuple

from runstore.http.errors import BadRequest
from runstore.http.openai.images import read_image, read_source
from runstore.http.openai.objects import (
    Base64Source,
    ChatMessage,
    ImageBlockPart,
    ImagePart,
    InputImagePart,
    InputTextPart,
    OutputTextPart,
    Part,
    RefusalPart,
    TextPart,
    ToolResultPart,
    ToolUsePart,
    UrlSource,
)

MAX_SHOWN_URL = 2_000  # characters of an image's URL, which the model gets instead of the image
# In strands' words, for an image where models accept only text.
MOVED = "The image is being provided in the following user message."

Block = dict[str, Any]
AnyImage = ImagePart | InputImagePart | ImageBlockPart


class Result(NamedTuple):
    """The result of a tool call."""

    given_id: str
    status: str  # `success` or `error`
    blocks: list[Block]


class Content(NamedTuple):
    """The content of one message.

    `blocks`: text and images, without blank text, which no model accepts.
    `images`: those of an assistant, which models accept from a user only.
    `uses`, `results`: parts that are tool calls, and results of tool calls.
    """

    blocks: list[Block]
    images: list[Block]
    uses: list[ToolUsePart]
    results: list[Result]


def content_of(message: ChatMessage, path: str) -> Content:
    """The content of the message at `path`.

    Raises:
        BadRequest: a person's image cannot be read, or an instruction has one.
    """
    given = message.content or []
    found = Content([], [], [], [])
    for number, part in enumerate(given if isinstance(given, list) else [given]):
        at = f"{path}[{number}]" if isinstance(given, list) else path
        match part:
            case ToolUsePart():
                found.uses.append(part)
            case ToolResultPart():
                blocks = _blocks(part.content)
                found.results.append(
                    Result(part.tool_use_id or "", "error" if part.is_error else "success", blocks)
                )
            case ImagePart() | InputImagePart() | ImageBlockPart() if message.role == "assistant":
                image = _image_or_text(part)
                moved = "image" in image
                found.blocks.append({"text": MOVED} if moved else image)
                found.images.extend([image] if moved else [])
            case ImagePart() | InputImagePart() | ImageBlockPart() if message.role == "user":
                found.blocks.append(_users_image(part, at))
            case ImagePart() | InputImagePart() | ImageBlockPart() if message.role in ("system", "developer"):
                raise wrong(at, "an instruction cannot hold an image")
            case _:
                found.blocks.extend(_blocks(part))
    return found


def wrong(param: str, message: str) -> BadRequest:
    return BadRequest(f"{param}: {message}", code="invalid_body", field=f"$.{param}")


def says(text: str | None) -> bool:
    return text is not None and bool(text.strip())


def _blocks(content: str | list[Any] | Part | None) -> list[Block]:
    """The content of a tool, or one part; an image that cannot be read is text."""
    blocks = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, AnyImage):
            blocks.append(_image_or_text(part))
        elif says(text := _text(part)):
            blocks.append({"text": text})
    return blocks


def _text(part: str | Part | None) -> str | None:
    match part:
        case RefusalPart():
            return part.refusal
        case TextPart() | InputTextPart() | OutputTextPart():
            return part.text
        case str():
            return part
    return None


def _users_image(part: AnyImage, path: str) -> Block:
    try:
        return _image(part)
    except ValueError as error:
        raise wrong(f"{path}.{_url(part)[1]}", str(error)) from error


def _image_or_text(part: AnyImage) -> Block:
    """An image; text if it cannot be read. The client would send it again with every turn."""
    try:
        return _image(part)
    except ValueError:
        url, _ = _url(part)
        shown = url.startswith(("https://", "http://")) and len(url) <= MAX_SHOWN_URL
        return {"text": f"[image: {url}]" if shown else "[image]"}


def _image(part: AnyImage) -> Block:
    if isinstance(part, ImageBlockPart) and isinstance(part.source, Base64Source):
        kind, data = read_source(part.source.media_type, part.source.data)
    else:
        kind, data = read_image(_url(part)[0])
    return {"image": {"format": kind, "source": {"bytes": data}}}


def _url(part: AnyImage) -> tuple[str, str]:
    """The URL of an image, empty without one, and its path in the part."""
    if isinstance(part, ImageBlockPart):
        return (part.source.url, "source.url") if isinstance(part.source, UrlSource) else ("", "source")
    image = part.image_url
    return (image, "image_url") if isinstance(image, str) else (image.url, "image_url.url")
