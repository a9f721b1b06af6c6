"""The pins of messages: strands' conversation managers never take a pinned message away. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from runstore.runtime.memory.held import bare


def is_pinned(message: Mapping[str, Any]) -> bool:
    """Whether a message has a pin, in the place where strands puts it."""
    custom = (message.get("metadata") or {}).get("custom") or {}
    return custom.get("pinned") is True


def pinned_in(messages: Iterable[Mapping[str, Any]]) -> list[int]:
    """The numbers of the pinned messages."""
    return [number for number, message in enumerate(messages) if is_pinned(message)]


def with_pins(messages: Sequence[Mapping[str, Any]], pinned: Collection[int]) -> list[dict[str, Any]]:
    """The messages with pins on those with these numbers, and on no others."""
    return [
        {**bare(message), "metadata": {"custom": {"pinned": True}}} if number in pinned else bare(message)
        for number, message in enumerate(messages)
    ]
