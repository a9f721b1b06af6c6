"""Converts OpenAI's messages to a run's input: strands' content blocks, with base64 for bytes. Pure.

Clients cannot repair their history: an interrupted answer leaves an empty message, half a tool call, or a
call without a result, and they send it again with every turn. So empty parts are omitted and broken ones
completed, in strands' way if it has one. It is an error if a person's text would be lost.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from runstore.core.arguments import read_arguments
from runstore.core.depth import MAX_DEPTH
from runstore.http.bodies import check_values
from runstore.http.errors import BadRequest
from runstore.http.openai.objects import (
    ChatBody,
    ChatMessage,
    CustomCall,
    FunctionCall,
    ToolCall,
    ToolResultPart,
    ToolUsePart,
)
from runstore.http.openai.parts import Block, Result, content_of, says, wrong

ARGUMENTS_DEPTH = MAX_DEPTH - 8  # levels of a tool call's arguments, which are nested in an input
_USE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what all models take; some make others, as `functions.add:0`
INTERRUPTED = "Tool was interrupted."  # the result of a call without one, in strands' words

Message = dict[str, Any]


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
    history = ChatHistory(_answered(messages), _called(messages))
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
    """Collects a history message by message; the roles of the result alternate.

    Args:
        answered: ids of the tool calls that have a result in the history, each with the number of results.
        called: ids of the tool calls in the history, each with the number of calls.
    """

    def __init__(self, answered: Mapping[str | None, int], called: Mapping[str, int]) -> None:
        self._answered = answered
        self._called = called
        self._taken = Counter[str]()  # results so far, by the ids that the client gave
        self._made = Counter[str]()  # calls so far, likewise
        self._early: dict[str, Result] = {}  # results that came before their calls
        self._missing: dict[str, Block] = {}  # likewise, results of calls that were given none in their turn
        self._late: list[Block] = []  # the content of such results that came since the last answer
        self._last_results: dict[str, list[Block]] = {}  # likewise; of calls without an id the last one
        self.last_role: str | None = None  # role of the last message with content, except instructions
        self._instructions: list[Block] = []
        self._messages: list[Message] = []
        self._open: list[_Call] = []  # calls of the last assistant message
        self._results: list[Block] = []  # their results
        self._blocks: list[Block] = []  # the user's content since then
        self._use_ids: set[str] = set()

    def add(self, message: ChatMessage, number: int) -> None:
        """Take the next message, which is `messages[number]`."""
        path = f"messages[{number}]"
        content = content_of(message, f"{path}.content")
        blocks = content.blocks
        match message.role:
            case "system" | "developer":
                self._instructions += blocks
                return
            case "assistant":
                blocks += [{"text": message.refusal}] if not blocks and says(message.refusal) else []
                calls = self._calls(message, content.uses, number)
                if not blocks and not calls:
                    return
                if not self._waits():
                    self._settle()
                self._speak(blocks, [_tool_use(*call) for call in calls])
                self._open += [call for call, _ in calls]
                self._blocks += content.images
                self._late = []
                if self._answer_early(call for call, _ in calls):
                    self.last_role = "tool"
                    return
            case "user":
                answers = [self._take_result(result) for result in content.results]
                self._blocks += blocks
                if not blocks and not any(answers):
                    return
            case "tool" | "function":
                results = content.results
                if blocks or not results:
                    status = "error" if message.status == "error" else "success"
                    results = [*results, Result(message.tool_call_id or "", status, blocks)]
                name = message.name or message.tool_name
                answers = [self._take_result(result, name) for result in results]
                if not any(answers):
                    return
        self.last_role = message.role

    def input(self) -> str | list[Message]:
        """The conversation; a plain text if it is a single one."""
        self._settle()
        if self._late and self._messages[-1]["role"] == "assistant":
            self._extend("user", self._late)
        if self._instructions:
            return [{"role": "system", "content": self._instructions}, *self._messages]
        if len(self._messages) == 1 and (text := _only_text(self._messages[0]["content"])) is not None:
            return text
        return self._messages

    def _calls(
        self, message: ChatMessage, uses: Sequence[ToolUsePart], number: int
    ) -> list[tuple[_Call, ToolCall]]:
        """The calls of a message, without one that was cut off before its name."""
        given = [call for call in message.tool_calls or () if call is not None]
        named = any(call.called and call.called.name for call in given)
        if message.function_call is not None and not named:  # some clients send both, for one call
            given.append(ToolCall(function=message.function_call))
        known = {call.id for call in given}
        for use in uses:
            if use.id in self._answered and use.id not in known:
                given.append(ToolCall(use.id, FunctionCall(use.name, use.input)))
        found = []
        for n, call in enumerate(given):
            if call.called is None or not call.called.name:
                continue
            use_id = call.id or ""
            if use_id in self._use_ids or not _USE_ID.fullmatch(use_id):
                use_id = f"call-{number}-{n}"
            self._use_ids.add(use_id)
            found.append((_Call(call.id or "", use_id, call.called.name), call))
        return found

    def _take_result(self, result: Result, name: str | None = None) -> bool:
        """Add the result of an open call, of the tool `name` if it has no id; False if it says nothing."""
        left = self._answered.get(result.given_id, 0) - self._taken[result.given_id]
        if result.given_id:
            self._taken[result.given_id] += 1
            fitting = [call for call in self._open if call.given_id == result.given_id]
        else:
            fitting = [call for call in self._open if name in (None, call.name)]
        if not fitting and self._last_results.get(result.given_id) == result.blocks:
            return False  # the client has sent it twice
        given_id = result.given_id
        if fitting:
            self._last_results[given_id] = result.blocks
            self._answer(fitting[0], result)
            return True
        if 0 < left <= self._called.get(given_id, 0) - self._made[given_id] and given_id not in self._early:
            self._early[given_id] = result
        elif (missing := self._missing.pop(given_id, None)) is not None:
            self._last_results[given_id] = result.blocks
            missing |= {"status": result.status, "content": result.blocks}
            self._late += result.blocks
        else:
            self._blocks += result.blocks  # the client has dropped the call; its text is still useful
        return bool(result.blocks)

    def _answer_early(self, calls: Iterable[_Call]) -> bool:
        """Answer the calls whose results have come before; False without such calls."""
        found = False
        for call in calls:
            self._made[call.given_id] += 1
            if (early := self._early.pop(call.given_id, None)) is not None:
                self._answer(call, early)
                found = True
        return found

    def _answer(self, call: _Call, result: Result) -> None:
        self._open.remove(call)
        self._results.append(_tool_result(call, result.status, result.blocks))

    def _waits(self) -> bool:
        """Whether the results of all open calls come later, after another message of the same answer.

        Clients send a message for each of several parallel calls, or text between a call and its result.
        """
        if self._results or self._blocks:
            return False
        wanted = Counter(call.given_id for call in self._open)
        return all(self._answered.get(id, 0) >= self._taken[id] + count for id, count in wanted.items())

    def _speak(self, blocks: list[Block], uses: list[Block]) -> None:
        """Add to the assistant's message: its text stands before its calls."""
        self._extend("assistant", blocks + uses)
        if self._open:
            self._messages[-1]["content"].sort(key=lambda block: "toolUse" in block)

    def _settle(self) -> None:
        """Close the turn: one message with the results first, as models expect, then the user's content."""
        for call in self._open:
            result = _tool_result(call, "error", [{"text": INTERRUPTED}])
            self._results.append(result)
            if call.given_id:
                self._missing[call.given_id] = result["toolResult"]
        if blocks := self._results + self._blocks:
            self._extend("user", blocks)
        self._open, self._results, self._blocks = [], [], []

    def _extend(self, role: str, blocks: list[Block]) -> None:
        if self._messages and self._messages[-1]["role"] == role:
            self._messages[-1]["content"] += blocks
        else:
            self._messages.append({"role": role, "content": blocks})


def _tool_use(call: _Call, given: ToolCall) -> Block:
    return {"toolUse": {"toolUseId": call.use_id, "name": call.name, "input": _arguments(given)}}


def _tool_result(call: _Call, status: str, content: list[Block]) -> Block:
    return {"toolResult": {"toolUseId": call.use_id, "status": status, "content": content}}


def _answered(messages: Iterable[ChatMessage | None]) -> dict[str | None, int]:
    """The ids of all tool calls with a result, each with the number of its results."""
    found = Counter[str | None]()
    for message in messages:
        if message is not None:
            content = message.content if isinstance(message.content, list) else [message.content]
            found.update(part.tool_use_id for part in content if isinstance(part, ToolResultPart))
            found[message.tool_call_id] += 1
    return {id: count for id, count in found.items() if id}


def _called(messages: Iterable[ChatMessage | None]) -> dict[str, int]:
    """The ids of all tool calls, each with the number of calls."""
    found = Counter[str | None]()
    for message in messages:
        if message is not None:
            calls = [call for call in message.tool_calls or () if call is not None]
            ids = [call.id for call in calls if call.called is not None and call.called.name]
            content = message.content if isinstance(message.content, list) else [message.content]
            uses = [part.id for part in content if isinstance(part, ToolUsePart) and part.name]
            found.update([*ids, *(id for id in uses if id not in ids)])
    return {id: count for id, count in found.items() if id}


def _arguments(call: ToolCall) -> dict[str, Any]:
    """A tool call's arguments; empty, as in strands, if they are not a JSON object."""
    if isinstance(call.called, CustomCall):
        return {"input": call.called.input or ""}
    arguments = None if call.called is None else call.called.arguments
    if isinstance(arguments, dict):
        arguments = msgspec.json.encode(arguments).decode()
    if not isinstance(arguments, str):
        return {}
    check_values(arguments.encode())  # the body's own check counts this JSON as one text
    try:
        return read_arguments(arguments, deepest=ARGUMENTS_DEPTH)
    except ValueError:
        return {}


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
