"""What a new attempt builds on: the conversations of a run's agents, rebuilt from its log. Pure.

Root and sub-agents are rebuilt alike. A sub-agent's conversation lives as long as the tool call that it works
for: when the call has its result, the result is all that the caller needs.
"""

from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from runstore.core.codec import RecordedEvent, decode
from runstore.core.errors import AgentError
from runstore.core.events import Message, Started, ToolFailed, ToolFinished, Usage
from runstore.core.run import add_usage

Place = tuple[str, str | None]  # an agent at work: its path, and the tool use that it works for (root: None)
MEDIA = (
    "image",
    "document",
    "video",
)  # content blocks whose source strands keeps as bytes, and JSON as base64
READ = frozenset(cls.type for cls in (Message, ToolFailed, ToolFinished, Usage))


class Conversation(Struct):
    """What one agent had said and heard, its input aside, and every tool result it had or was to hear."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # tool use id → status and content

    @property
    def ending(self) -> str | None:
        """The text of the last message when it is an answer: nothing but the ending was missing."""
        last = self.messages[-1] if self.messages else {}
        return text_of(last) if last.get("role") == "assistant" and not _tool_uses(last) else None


class Memory(Struct):
    """What earlier attempts left behind."""

    conversations: dict[Place, Conversation] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)


def recall(history: Iterable[RecordedEvent]) -> Memory:
    """The conversations that were open when the last attempt ended, and what all attempts used."""
    memory = Memory()
    for recorded in history:
        if recorded.type in READ:
            _recall(memory, decode(recorded.type, recorded.version, recorded.data))
    return memory


def discard_after(history: Sequence[RecordedEvent]) -> int | None:
    """The seq after which a resumed run says streamed text again (`lifecycle.started`'s `discard_after_seq`).

    It is the seq of the last `llm.message` of the run's own agent; before the first one, that of the first
    `lifecycle.started`; None when the run was never started. `history` may leave out streamed text.

    A client that follows the run keeps the `llm.token` and `llm.reasoning` events with a seq up to this one,
    and drops the later ones that stand before the new `lifecycle.started`. Among those may be text of a
    sub-agent which is not said again, since it had been complete: its `llm.message` events still hold it.
    """
    found: int | None = None
    for recorded in history:
        if recorded.type == Started.type:
            found = recorded.seq if found is None else found
        elif recorded.type == Message.type:
            message = decode(recorded.type, recorded.version, recorded.data)
            if isinstance(message, Message) and is_root(message.agent):
                found = recorded.seq
    return found


def is_root(path: str) -> bool:
    """Whether a path is that of the run's own agent; agents' names hold no slash."""
    return "/" not in path


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


def message_with_bytes(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as strands has it: `with_bytes` for each of its blocks."""
    content = message.get("content")
    blocks = [with_bytes(block) for block in content] if isinstance(content, list) else content
    return {**message, "content": blocks}


def with_bytes(block: Any) -> Any:
    """A content block as strands has it, with bytes where JSON has base64.

    Raises:
        AgentError: what should be base64 is not.
    """
    if not isinstance(block, dict):
        return block
    return {key: _revived(key, inner) for key, inner in block.items()}


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says, without its tool calls and reasoning."""
    content: list[Mapping[str, Any]] = []
    for block in message.get("content", ()):
        content += block["citationsContent"].get("content", ()) if "citationsContent" in block else [block]
    return "\n".join(block["text"] for block in content if "text" in block)


def _recall(memory: Memory, event: Any) -> None:
    if isinstance(event, Usage):
        memory.usage = add_usage(memory.usage, event)
        return
    open_ = memory.conversations
    conversation = open_.setdefault((event.agent, event.call_id), Conversation())
    if isinstance(event, Message):
        conversation.messages.append(message_with_bytes(event.message))
    elif isinstance(event, ToolFinished | ToolFailed):
        status = "success" if isinstance(event, ToolFinished) else "error"
        conversation.results[event.tool_use_id] = {
            "status": status,
            "content": [with_bytes(block) for block in event.output or ()],
        }
        _forget(memory, f"{event.agent}/{event.name}", event.tool_use_id)


def _forget(memory: Memory, path: str, call_id: str) -> None:
    """Close a sub-agent's conversation and those below it: an id may come again in another call."""
    if memory.conversations.pop((path, call_id), None):
        below = f"{path}/"
        for place in [place for place in memory.conversations if place[0].startswith(below)]:
            del memory.conversations[place]


def _tool_uses(message: Mapping[str, Any]) -> bool:
    return any("toolUse" in block for block in message.get("content", ()))


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
        return {**inner, "source": {**source, "bytes": _decoded(source["bytes"])}}
    return inner


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise AgentError(
            f"the bytes of an image or document are no base64: {error}", code="invalid_input"
        ) from error
