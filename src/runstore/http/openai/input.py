"""Converts OpenAI's messages to a run's input: strands' content blocks, with base64 for bytes. Pure.

Clients cannot repair their history: an interrupted answer leaves an empty message, half a tool call, or a
call without a result, and they send it again with every turn. So empty parts are omitted and broken ones
completed, in strands' way if it has one. It is an error if a person's text would be lost.
"""

from typing import Any, NamedTuple

import msgspec

from runstore.core.depth import MAX_DEPTH, is_deeper
from runstore.http.bodies import check_values
from runstore.http.errors import BadRequest
from runstore.http.openai.images import read_image
from runstore.http.openai.objects import (
    UNHEARD_PARTS,
    ChatBody,
    ChatMessage,
    ImagePart,
    InputImagePart,
    RefusalPart,
    ToolCall,
)

ARGUMENTS_DEPTH = MAX_DEPTH - 8  # levels of a tool call's arguments, which are nested in an input
INTERRUPTED = "Tool was interrupted."  # the result of a call without one, in strands' words

Message = dict[str, Any]
Block = dict[str, Any]


def chat_input(body: ChatBody) -> str | list[Message]:
    """The agent's input: a prompt or a single text unchanged, otherwise the messages of the conversation.

    Raises:
        BadRequest: there is nothing to answer, or a part that no agent can take.
    """
    if (body.prompt is None) == (body.messages is None):
        raise wrong("prompt" if body.prompt is not None else "messages", "give either `prompt` or `messages`")
    if body.prompt is not None:
        if not body.prompt.strip():
            raise wrong("prompt", "there is nothing to answer")
        return body.prompt
    messages = body.messages or []
    history = ChatHistory()
    for number, message in enumerate(messages):
        if message is not None:
            history.add(message, number)
    if history.last_role not in ("user", "tool", "function"):
        raise _nothing_to_answer(messages)
    return history.input()


class _Call(NamedTuple):
    """A tool call without a result yet. `given_id`: the client's; `use_id`: unique in the history."""

    given_id: str
    use_id: str
    name: str


class ChatHistory:
    """Collects a history message by message; the roles of the result alternate."""

    def __init__(self) -> None:
        self.last_role: str | None = None  # of the last message with content, except instructions
        self._instructions: list[Block] = []
        self._messages: list[Message] = []
        self._open: list[_Call] = []  # calls of the last assistant message
        self._results: list[Block] = []  # their results
        self._said: list[Block] = []  # the user's content since then
        self._use_ids: set[str] = set()

    def add(self, message: ChatMessage, number: int) -> None:
        """Take the next message, which is `messages[number]`."""
        place = f"messages[{number}]"
        blocks = _content(message, f"{place}.content")
        match message.role:
            case "system" | "developer":
                self._instructions += blocks
                return
            case "assistant":
                blocks += [{"text": message.refusal}] if not blocks and _says(message.refusal) else []
                calls = self._calls(message, number)
                if not blocks and not calls:
                    return
                self._settle()
                self._extend("assistant", blocks + [_tool_use(*call) for call in calls])
                self._open = [call for call, _ in calls]
            case "user":
                if not blocks:
                    return
                self._said += blocks
            case "tool" | "function":
                if (call := self._take_call(message)) is not None:
                    result = {"toolUseId": call.use_id, "status": "success", "content": blocks}
                    self._results.append({"toolResult": result})
                elif blocks:
                    self._said += blocks  # the client has dropped the call; its text is still useful
                else:
                    return
        self.last_role = message.role

    def input(self) -> str | list[Message]:
        """The conversation; a plain text if it is a single one."""
        self._settle()
        if self._instructions:
            return [{"role": "system", "content": self._instructions}, *self._messages]
        if len(self._messages) == 1 and (text := _only_text(self._messages[0]["content"])) is not None:
            return text
        return self._messages

    def _calls(self, message: ChatMessage, number: int) -> list[tuple[_Call, ToolCall]]:
        """The calls of a message, without one that was cut off before its name."""
        given = [call for call in message.tool_calls or () if call is not None]
        if message.function_call is not None:
            given.append(ToolCall(function=message.function_call))
        found = []
        for n, call in enumerate(given):
            if call.called is None or not call.called.name:
                continue
            use_id = call.id or ""
            if not use_id or use_id in self._use_ids:
                use_id = f"call-{number}-{n}"
            self._use_ids.add(use_id)
            found.append((_Call(call.id or "", use_id, call.called.name), call))
        return found

    def _take_call(self, message: ChatMessage) -> _Call | None:
        """The open call of a result; None if the history does not hold it."""
        if message.tool_call_id:
            fitting = [call for call in self._open if call.given_id == message.tool_call_id]
        else:
            fitting = [call for call in self._open if message.name in (None, call.name)]
        if not fitting:
            return None
        self._open.remove(fitting[0])
        return fitting[0]

    def _settle(self) -> None:
        """Close the turn: one message with the results first, as models expect, then the user's content."""
        for call in self._open:
            result = {"toolUseId": call.use_id, "status": "error", "content": [{"text": INTERRUPTED}]}
            self._results.append({"toolResult": result})
        if blocks := self._results + self._said:
            self._extend("user", blocks)
        self._open, self._results, self._said = [], [], []

    def _extend(self, role: str, blocks: list[Block]) -> None:
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"] += blocks
        else:
            self._messages.append({"role": role, "content": blocks})


def _content(message: ChatMessage, place: str) -> list[Block]:
    """The content of a message, without blank text, which no model accepts."""
    content = message.content or []
    alone = not isinstance(content, list)
    parts = content if isinstance(content, list) else [content]
    blocks: list[Block] = []
    for number, part in enumerate(parts):
        if isinstance(part, ImagePart | InputImagePart):
            at = place if alone else f"{place}[{number}]"
            if message.role not in ("user", "tool"):
                raise wrong(at, "only a user's or a tool's message can hold an image")
            blocks.append(_image(part, f"{at}.image_url"))
        elif not isinstance(part, UNHEARD_PARTS):
            text = (
                part
                if part is None or isinstance(part, str)
                else part.refusal
                if isinstance(part, RefusalPart)
                else part.text
            )
            if _says(text):
                blocks.append({"text": text})
    return blocks


def _image(part: ImagePart | InputImagePart, place: str) -> Block:
    given = part.image_url
    url, place = (given, place) if isinstance(given, str) else (given.url, f"{place}.url")
    try:
        kind, data = read_image(url)
    except ValueError as error:
        raise wrong(place, str(error)) from error
    return {"image": {"format": kind, "source": {"bytes": data}}}


def _tool_use(call: _Call, given: ToolCall) -> Block:
    return {"toolUse": {"toolUseId": call.use_id, "name": call.name, "input": _arguments(given)}}


def _arguments(call: ToolCall) -> dict[str, Any]:
    """A tool call's arguments; empty, as in strands, if they are not a JSON object."""
    if call.custom is not None:
        return {"input": call.custom.input or ""}
    arguments = None if call.function is None else call.function.arguments
    if isinstance(arguments, str):
        encoded = arguments.encode()
        check_values(encoded)  # the body's own check counts this JSON as one text
        try:
            arguments = msgspec.json.decode(encoded)
        except (msgspec.MsgspecError, RecursionError):
            return {}
        if is_deeper(encoded, ARGUMENTS_DEPTH):
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _says(text: str | None) -> bool:
    return text is not None and bool(text.strip())


def _only_text(blocks: list[Block]) -> str | None:
    return blocks[0].get("text") if len(blocks) == 1 else None


def _nothing_to_answer(messages: list[ChatMessage | None]) -> BadRequest:
    roles = {number: message.role for number, message in enumerate(messages) if message is not None}
    if not roles:
        return wrong("messages[0]" if messages else "messages", "there is nothing to answer")
    spoken = [number for number in roles if roles[number] not in ("system", "developer")]
    last = max(spoken or roles)
    if roles[last] == "user":
        return wrong(f"messages[{last}].content", "the message is empty")
    return wrong(f"messages[{last}].role", "the last message must be a user's or a tool's")


def wrong(param: str, message: str) -> BadRequest:
    return BadRequest(f"{param}: {message}", code="invalid_body", field=f"$.{param}")
