"""OpenAI's messages as those of a run's input: strands' content blocks, with base64 for bytes. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from runstore.http.errors import BadRequest
from runstore.http.openai_objects import DATA_URL, ChatBody, ChatMessage, ImagePart, TextPart

Message = dict[str, Any]


def chat_input(body: ChatBody) -> str | list[Message]:
    """What the agent is asked: a prompt or a single text as it is, else the messages of the conversation.

    Raises:
        BadRequest: there is nothing to answer, or something that no agent can be given.
    """
    if (body.prompt is None) == (body.messages is None):
        raise _wrong(
            "prompt" if body.prompt is not None else "messages", "give either `prompt` or `messages`"
        )
    if body.prompt is not None:
        if not body.prompt:
            raise _wrong("prompt", "there is nothing to answer")
        return body.prompt
    messages = body.messages or []
    if not messages or messages[-1].role not in ("user", "tool"):
        place = f"messages[{len(messages) - 1}].role" if messages else "messages"
        raise _wrong(place, "the last message must be a user's or a tool's")
    first = messages[0]
    if len(messages) == 1 and first.role == "user" and isinstance(first.content, str) and first.content:
        return first.content
    return _joined([_message(message, f"messages[{place}]") for place, message in enumerate(messages)])


def _message(message: ChatMessage, place: str) -> Message:
    blocks = _content(message, place)
    if message.role == "tool":
        if message.tool_call_id is None:
            raise _wrong(f"{place}.tool_call_id", "a tool's message needs the id of its call")
        result = {"toolUseId": message.tool_call_id, "status": "success", "content": blocks}
        return {"role": "user", "content": [{"toolResult": result}]}
    if message.role == "assistant":
        blocks += [
            _tool_use(call, f"{place}.tool_calls[{n}]") for n, call in enumerate(message.tool_calls or ())
        ]
    if not blocks:
        raise _wrong(f"{place}.content", "the message is empty")
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": blocks}


def _content(message: ChatMessage, place: str) -> list[Message]:
    if message.content is None or isinstance(message.content, str):
        return [{"text": message.content}] if message.content else []
    blocks = []
    for number, part in enumerate(message.content):
        if isinstance(part, ImagePart):
            if message.role != "user":
                raise _wrong(f"{place}.content[{number}]", "only a user's message can hold an image")
            blocks.append(_image(part, f"{place}.content[{number}].image_url.url"))
        elif text := part.text if isinstance(part, TextPart) else part.refusal:
            blocks.append({"text": text})
    return blocks


def _image(part: ImagePart, place: str) -> Message:
    found = DATA_URL.fullmatch(part.image_url.url)
    if found is None:
        raise _wrong(place, "an image must be a data: URL of a png, jpeg, gif or webp in base64")
    return {"image": {"format": found[1], "source": {"bytes": found[2]}}}


def _tool_use(call: Any, place: str) -> Message:
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _wrong(f"{place}.function.arguments", f"they are no JSON object: {error}") from error
    return {"toolUse": {"toolUseId": call.id, "name": call.function.name, "input": arguments}}


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message: models want the roles to alternate."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1]["content"] += message["content"]
        else:
            joined.append(message)
    return joined


def _wrong(param: str, message: str) -> BadRequest:
    return BadRequest(f"{param}: {message}", code="invalid_body", field=f"$.{param}")
