"""A session as a conversation: the messages of its earlier successful runs, rebuilt from the log."""

import asyncio
from collections.abc import Iterator
from typing import Any

from runstore.core.codec import RecordedEvent, decode, json_size
from runstore.core.errors import AgentError, LogUnavailable, RunPurged
from runstore.core.events import Completed, Message, Queued
from runstore.core.ports import EventFilter, EventLog
from runstore.runtime.oversized import is_whole
from runstore.runtime.resume import Conversation, input_messages

MAX_RUNS = 200  # of a session that are looked at, the newest; also those that did not succeed
MAX_MEMORY_BYTES = 1 << 20  # of their messages as JSON; the agent's conversation manager bounds them further
UNAVAILABLE_RETRY_S = 1.0

_OWN = {"toolUse", "toolResult", "reasoningContent"}  # blocks that mean nothing to another agent
_CONVERSATION = EventFilter(types=frozenset({Queued.type, Message.type}))


async def read_memory(log: EventLog, run_id: str, queued: Queued) -> list[dict[str, Any]]:
    """What was said in the run's session before it, oldest first. Waits while the log cannot be read.

    Runs that failed or were stopped, and deleted and purged ones, are left out. A run whose input was a whole
    conversation has all that was before it, so nothing before that is read.
    """
    while True:
        try:
            return await _read(log, run_id, queued)
        except LogUnavailable:
            await asyncio.sleep(UNAVAILABLE_RETRY_S)


async def _read(log: EventLog, run_id: str, queued: Queued) -> list[dict[str, Any]]:
    turns: list[list[dict[str, Any]]] = []
    room = MAX_MEMORY_BYTES
    earlier = await log.session_runs(queued.user_id, queued.session_id or "", before=run_id, limit=MAX_RUNS)
    for earlier_id in earlier:
        if (turn := await _read_turn(log, earlier_id, queued.agent)) is None:
            continue
        messages, whole = turn
        room -= json_size(messages)
        if room < 0 or not all(map(is_whole, messages)):  # what an event could not hold is over it, too
            break
        turns.append(messages)
        if whole:
            break
    return [message for messages in reversed(turns) for message in messages]


async def _read_turn(log: EventLog, run_id: str, agent: str) -> tuple[list[dict[str, Any]], bool] | None:
    """One run's input and what its own agent said; and whether the input was a whole conversation."""
    events: list[RecordedEvent] = []
    try:
        while page := await log.read(run_id, after=events[-1].seq if events else 0, only=_CONVERSATION):
            events += page
    except RunPurged:  # since the session was looked at
        return None
    head = await log.head(run_id)
    if head is None or head.deleted or not events or events[-1].type != Completed.type:
        return None
    queued, *said = [decode(e.type, e.version, e.data) for e in events]
    if not isinstance(queued, Queued):
        return None
    try:
        asked = [message for message in input_messages(queued.input) if message["role"] != "system"]
    except AgentError:
        return None  # an input that only a function can make something of
    conversation = Conversation((queued.agent, None))
    for event in said:
        if isinstance(event, Message) and event.agent == queued.agent:
            conversation.add(event)
    messages = [*asked, *(conversation.messages or _result_message(said[-1]))]
    if queued.agent != agent:
        messages = list(_words(messages))
    complete = bool(messages) and messages[-1]["role"] == "assistant"
    return (messages, _is_conversation(queued.input)) if complete else None


def _result_message(completed: Any) -> Iterator[dict[str, Any]]:
    """What an agent without messages of its own came to."""
    if text := completed.result.get("text"):
        yield {"role": "assistant", "content": [{"text": text}]}


def _words(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What another agent heard and said, without its tools, which this one does not have."""
    for message in messages:
        content = [block for block in message["content"] if not _OWN & block.keys()]
        if content:
            yield {**message, "content": content}


def _is_conversation(input: Any) -> bool:
    return isinstance(input, list) and "role" in input[0]
