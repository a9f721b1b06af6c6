"""Finds the messages that a run's events hold. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from runstore.core.codec import RecordedEvent, decode, to_json
from runstore.core.content import asked_messages
from runstore.core.errors import AgentError
from runstore.core.events import (
    ContextReduced,
    InputReplaced,
    Message,
    Place,
    Queued,
    Started,
    ToolFailed,
    ToolFinished,
)
from runstore.runtime.memory.oversized import continued, with_results

HOLDING = frozenset(
    cls.type for cls in (Queued, Started, Message, InputReplaced, ContextReduced, ToolFinished, ToolFailed)
)

Messages = Iterable[Mapping[str, Any]]


def held_in(history: Iterable[RecordedEvent]) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """The messages that a run's events hold, its input included: seq, number in the event, message."""
    results: dict[Place, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    begun: dict[Place, Mapping[str, Any]] = {}
    for recorded in history:
        if recorded.type not in HOLDING:
            continue
        event = decode(recorded.type, recorded.version, recorded.data)
        if isinstance(event, Started):
            begun.clear()
        elif isinstance(event, ToolFinished | ToolFailed):
            results[event.place][event.tool_use_id] = {"content": event.output or []}
        elif isinstance(event, Queued | InputReplaced | ContextReduced):
            for number, message in enumerate(messages_of(event)):
                yield recorded.seq, number, message
        elif isinstance(event, Message):
            place = event.place
            part = with_results(event.message, results[place])
            whole = continued(begun.pop(place), part) if place in begun else part
            if event.more:
                begun[place] = whole
            else:
                yield recorded.seq, 0, whole


def messages_of(event: Queued | InputReplaced | ContextReduced) -> Messages:
    """The messages of an event that may hold several."""
    if isinstance(event, Queued):
        return asked_in(event.input)
    return event.messages if isinstance(event, InputReplaced) else event.begins_with


def asked_in(input: Any) -> Messages:
    """The messages in a run's input; empty for an input that only the agent's function understands."""
    try:
        return asked_messages(input)
    except AgentError:
        return []


def bare(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as it is logged and sent, without strands' own annotations."""
    return {"role": message["role"], "content": message["content"]}


def digest_of_message(message: Mapping[str, Any]) -> bytes:
    """The digest of a message as it is logged and sent."""
    return sha256(to_json(bare(message))).digest()
