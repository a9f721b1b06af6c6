"""Finds the conversation with which a fork of a run begins. Pure.

A fork begins at a boundary of the conversation of the run's own agent: after its input, after an answer, or
after the results of all tools that a message calls. There the log has all results, so no tool runs again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from runstore.core.codec import RecordedEvent, decode
from runstore.core.content import asked_messages, input_messages, message_with_bytes
from runstore.core.events import InputReplaced, Message, Queued, ToolFailed, ToolFinished
from runstore.core.ports import EventFilter
from runstore.runtime.memory.held import HOLDING
from runstore.runtime.memory.oversized import with_results
from runstore.runtime.memory.resume import is_run, replaced, tool_uses
from runstore.runtime.memory.session_memory import said_by_root

FORKED = EventFilter(HOLDING)  # the types of events to fork from
Messages = list[dict[str, Any]]


class ForkedConversation(Struct, frozen=True):
    """A conversation up to the boundary at `seq`. `instructions`: the system messages of the run's input."""

    seq: int
    messages: Messages
    instructions: Messages


def fork_of(
    queued: Queued, events: Sequence[RecordedEvent], *, memory: Messages, asks: bool
) -> ForkedConversation:
    """The conversation at the last boundary of a run's events.

    Args:
        events: up to the seq that was asked for; those of FORKED suffice.
        memory: the messages with which the run began.
        asks: new input follows. Without it the model answers again, so the last answer is left out.

    Raises:
        AgentError: the run's input cannot begin a conversation.
    """
    results = _results(events)
    conversation = [(1, message) for message in (*memory, *asked_messages(queued.input))]
    for seq, event in said_by_root(events):
        if isinstance(event, InputReplaced):
            kept = replaced([message for _, message in conversation], event)
            conversation = [
                *conversation[: len(kept) - len(event.messages)],
                *((seq, message) for message in kept[len(kept) - len(event.messages) :]),
            ]
        elif isinstance(event, Message):
            message = message_with_bytes(with_results(event.message, _before(results, seq)))
            conversation.append((seq, message))
    conversation = _to_boundary(conversation, {id: each[-1] for id, each in results.items()}, asks=asks)
    instructions = [message for message in input_messages(queued.input) if message["role"] == "system"]
    return ForkedConversation(conversation[-1][0], [message for _, message in conversation], instructions)


def _to_boundary(
    conversation: list[tuple[int, dict[str, Any]]], results: Mapping[str, Any], *, asks: bool
) -> list[tuple[int, dict[str, Any]]]:
    while len(conversation) > 1 and conversation[-1][1]["role"] == "assistant":
        last_seq, last = conversation[-1]
        calls = [use["toolUseId"] for use in tool_uses(last)]
        # An earlier result belongs to an earlier call with the same tool use id.
        if calls and all(use_id in results and results[use_id]["seq"] > last_seq for use_id in calls):
            content = [{"toolResult": {"toolUseId": use_id, **_outcome(results[use_id])}} for use_id in calls]
            seq = max(results[use_id]["seq"] for use_id in calls)
            return [*conversation, (seq, {"role": "user", "content": content})]
        if not calls and asks:
            break
        conversation = conversation[:-1]
    return conversation


def _outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": result["status"], "content": result["content"]}


def _before(results: Mapping[str, Sequence[Mapping[str, Any]]], seq: int) -> dict[str, Any]:
    """The results that a message at `seq` may hold: of calls with one tool use id, the last before it."""
    return {
        use_id: earlier[-1]
        for use_id, all in results.items()
        if (earlier := [result for result in all if result["seq"] < seq])
    }


def _results(events: Sequence[RecordedEvent]) -> dict[str, list[dict[str, Any]]]:
    """The results of the root's tools in order: tool use id → seq, status and content of each call."""
    found: dict[str, list[dict[str, Any]]] = {}
    for recorded in events:
        if recorded.type in (ToolFinished.type, ToolFailed.type):
            event = decode(recorded.type, recorded.version, recorded.data)
            if isinstance(event, ToolFinished | ToolFailed) and is_run(event.place):
                status = "success" if isinstance(event, ToolFinished) else "error"
                result = {"status": status, "content": event.output or [], "seq": recorded.seq}
                found.setdefault(event.tool_use_id, []).append(result)
    return found
