"""Compares an agent's conversation with its run's log, to find changes.

strands adds messages with a hook, and changes added ones without: a guardrail redacts the last message, and a
conversation manager trims and summarises.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from runstore.runtime.memory.pins import is_pinned, pinned_in


class Reduced(NamedTuple):
    """New messages, the number of last ones that follow them, and the numbers of pinned ones among all."""

    begins_with: list[Any]
    kept: int
    pinned: list[int]


class LoggedConversation:
    """The logged messages of one agent at work.

    Args:
        messages: the agent's initial messages.
        own: how many of them belong to its definition, and start every run's conversation.
    """

    def __init__(self, messages: Sequence[Any], own: int = 0) -> None:
        self._own = list(messages[:own])
        self._entries = _entries(messages[own:])
        self._pinned = _pinned(messages[own:])

    def add(self, message: Any, messages: Sequence[Any]) -> bool:
        """Add a message; False if it replaced the last one and continues it."""
        joined = bool(self._entries) and _joins(message, *self._entries[-1], messages)
        if joined:
            self._entries.pop()
        self._entries.append((message, message["content"]))
        return not joined

    def redacted(self, messages: Sequence[Any]) -> Any | None:
        """The last message, if its content was replaced since the last call."""
        if self._entries and messages:
            last, content = self._entries[-1]
            if messages[-1] is last and last["content"] is not content:
                self._entries[-1] = (last, last["content"])
                return last
        return None

    def reduced(self, messages: Sequence[Any]) -> Reduced | None:
        """The rest after the conversation manager; None if no message was removed, pinned or unpinned."""
        if all(now is own for now, own in zip(messages, self._own, strict=False)):
            messages = messages[len(self._own) :]
        kept = 0
        for (message, content), now in zip(reversed(self._entries), reversed(messages), strict=False):
            if now is not message or (now["content"] is not content and now["content"] != content):
                break
            kept += 1
        before, self._pinned = self._pinned, _pinned(messages)
        if kept == len(self._entries) == len(messages) and before == self._pinned:
            return None
        self._entries = _entries(messages)
        return Reduced(list(messages[: len(messages) - kept]), kept, pinned_in(messages))


def _joins(message: Any, last: Any, content: Any, messages: Sequence[Any]) -> bool:
    is_next = len(messages) > 1 and messages[-2] is last
    same_role = message is not last and message["role"] == last["role"]
    return not is_next and same_role and message["content"][: len(content)] == content


def _pinned(messages: Sequence[Any]) -> set[int]:
    """The identities of the pinned messages."""
    return {id(message) for message in messages if is_pinned(message)}


def _entries(messages: Sequence[Any]) -> list[tuple[Any, Any]]:
    return [(message, message["content"]) for message in messages]
