"""A session as a conversation from the log, as one long-lived strands agent would have kept it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, decode, json_size
from runstore.core.content import MEDIA, asked_messages, joined, message_with_bytes, without_empty
from runstore.core.errors import UNAVAILABLE_RETRY_S, AgentError, LogUnavailable, RunPurged
from runstore.core.events import (
    AgentEvent,
    Completed,
    ContextReduced,
    Failed,
    InputReplaced,
    Message,
    Queued,
    Started,
)
from runstore.core.folds.transcript import message_text, result_text, tool_text
from runstore.core.pages import pages
from runstore.core.ports import Conversations, EventFilter, RunContext
from runstore.runtime.memory.held import digest_of_message, held_in
from runstore.runtime.memory.oversized import continued, is_whole
from runstore.runtime.memory.pins import with_pins
from runstore.runtime.memory.resume import is_run, is_unsigned, replaced, tool_uses

MAX_RUNS = 200  # newest runs of a session to examine, including failed ones
# Bytes of their messages as JSON; the agent's conversation manager limits them further.
MAX_MEMORY_BYTES = 1 << 20
MAX_TURN_BYTES = 16 << 20  # bytes of a run's messages to read; for a larger run, without tools' results

CUT_OFF = "max_tokens"  # the stop reason, or the code of a failed run, whose last message still is an answer
# Stands for an answer that its limit cut off after unsigned reasoning, in strands' words for a tool's call.
NO_TEXT = "The answer was incomplete due to maximum token limits being reached."

_CONVERSATION = EventFilter(
    types=frozenset(cls.type for cls in (Queued, Started, Message, InputReplaced, ContextReduced))
)

Messages = list[dict[str, Any]]
MessagePlaces = dict[bytes, tuple[str, int, int]]  # digest of a message → run, seq, number in the event


class Exchange(Struct):
    """A run's effect on the conversation before it: the part that is kept, and the `messages` it adds.

    `before`: how many of the last messages before the run are kept; None: all.
    `pinned`: the numbers of the pinned messages in the conversation after the run, counted from the first of
    its `messages`, so negative before it; None: those that were pinned.
    """

    messages: Messages
    before: int | None = None
    begins_with: Messages = field(default_factory=list)
    pinned: set[int] | None = None

    def after(self, conversation: Messages) -> Messages:
        """The conversation after the run."""
        kept = conversation if self.before is None else _last(conversation, self.before)
        found = [*self.begins_with, *kept, *self.messages]
        if self.pinned is None:
            return found
        first = len(found) - len(self.messages)
        return with_pins(found, {first + number for number in self.pinned})

    def reduce(self, left: ContextReduced) -> None:
        """Take the result of the agent's conversation manager."""
        begins_with = [message_with_bytes(message) for message in left.begins_with]
        more = left.kept - len(self.messages)
        if more <= 0:
            self.begins_with, self.before, self.messages = begins_with, 0, _last(self.messages, left.kept)
        elif self.before is None or more <= self.before:
            self.begins_with, self.before = begins_with, more
        else:
            self.begins_with = [*begins_with, *_last(self.begins_with, more - self.before)]
        first = len(left.begins_with) + left.kept - len(self.messages)
        self.pinned = {number - first for number in left.pinned}


async def remembering(log: Conversations, context: RunContext, queued: Queued) -> RunContext:
    """The context of an agent, with the messages of the session's earlier runs if its run asks for them."""
    if queued.memory != "session":
        return context
    memory, held = await _read_patiently(log, context.run_id, queued)
    places = [held.get(digest_of_message(message)) for message in memory]
    return replace(context, memory=memory, memory_held=places)


async def read_memory(log: Conversations, run_id: str, queued: Queued) -> Messages:
    """The memory that the run's agent would have, had it taken part in the session. Waits for the database.

    Runs that failed or were stopped, and deleted and purged ones, are left out: the session goes on as if
    they had not been. An answer that its `max_tokens` cut off is kept; a note stands for one that is only
    unsigned reasoning, which providers refuse. Of another agent's runs the words are
    taken, without its tools and reasoning. A run whose input was a whole conversation has all before it.
    """
    return (await _read_patiently(log, run_id, queued))[0]


async def _read_patiently(log: Conversations, run_id: str, queued: Queued) -> tuple[Messages, MessagePlaces]:
    while True:
        try:
            return await _read(log, run_id, queued)
        except LogUnavailable:
            await asyncio.sleep(UNAVAILABLE_RETRY_S)


async def _read(log: Conversations, run_id: str, queued: Queued) -> tuple[Messages, MessagePlaces]:
    """The memory, and the events that hold the messages of its runs."""
    held: MessagePlaces = {}
    exchanges: list[Exchange] = []
    room = MAX_MEMORY_BYTES
    wanted: int | None = None  # how many more messages the agent's conversation manager has kept; None: all
    earlier = await log.session_runs(queued.user_id, queued.session_id or "", before=run_id, limit=MAX_RUNS)
    for earlier_id in earlier:
        if (exchange := await _read_exchange(log, earlier_id, queued.agent, held)) is None:
            continue
        exchanges.append(exchange)
        room -= json_size([exchange.begins_with, exchange.messages])
        of_it = [] if wanted is None else [wanted - len(exchange.messages)]
        wanted = min((*of_it, *([] if exchange.before is None else [exchange.before])), default=None)
        if room < 0 or (wanted is not None and wanted <= 0):
            break
    conversation: Messages = []
    for exchange in reversed(exchanges):
        conversation = exchange.after(conversation)
    conversation = without_empty(conversation)
    fits = json_size(conversation) <= MAX_MEMORY_BYTES
    return conversation if fits else _cut(conversation), held


async def _read_exchange(log: Conversations, run_id: str, agent: str, held: MessagePlaces) -> Exchange | None:
    """A run's addition to the memory of an agent; None for no addition.

    Args:
        held: gets the places of the run's messages.
    """
    events: list[RecordedEvent] = []
    size = 0
    try:
        async for page in pages(log, run_id, only=_CONVERSATION):
            events += page
            size += sum([len(event.data) for event in page])
            if size > MAX_TURN_BYTES:
                events = [event for event in events if not _brings_results(event)]
    except RunPurged:  # purged after the session was read
        return None
    head = await log.head(run_id)
    if head is None or head.deleted or not events:
        return None
    queued, ending = _event(events[0]), _event(events[-1])
    if not isinstance(queued, Queued) or not _counts(ending):
        return None
    for seq, number, message in held_in(events):
        held.setdefault(digest_of_message(message), (run_id, seq, number))
    try:
        root_events = [event for _, event in said_by_root(events)]
        if _is_cut_off(ending):
            root_events = _with_text(root_events)
        if queued.agent == agent:
            return _own_exchange(queued, root_events, ending, whole=size <= MAX_TURN_BYTES)
        words = _words(_spoken(queued, root_events), ending)
    except AgentError:
        return None  # an input that only a function can make something of
    return Exchange(words, before=_before(queued)) if words else None


def _own_exchange(
    queued: Queued, root_events: Sequence[AgentEvent], ending: Any, *, whole: bool
) -> Exchange | None:
    """A run as its own agent remembers it; None when it was not answered. `whole`: all of it was read."""
    asked, before = asked_messages(queued.input), _before(queued)
    answers = without_empty(event.message for event in root_events if isinstance(event, Message))
    if not answers:  # the agent has no conversation, but a result
        result = _result(ending)
        return Exchange([*asked, *result], before) if result else None
    if not _is_complete(answers[-1]):
        return None
    if not whole or not all(map(is_whole, answers)):  # no memory could hold it
        return Exchange(_words(_spoken(queued, root_events), ending), before)
    exchange = Exchange(asked, before)
    for event in root_events:
        if isinstance(event, ContextReduced):
            exchange.reduce(event)
        else:
            exchange.messages = _with(exchange.messages, event)
    if queued.memory == "session":
        return exchange
    return Exchange(exchange.after([]), before)  # it knew of nothing before


def _spoken(queued: Queued, root_events: Sequence[AgentEvent]) -> Messages:
    """The messages of a run: its input, answers and tool results."""
    messages = asked_messages(queued.input)
    for event in root_events:
        messages = _with(messages, event)
    return messages


def _with(messages: Messages, event: AgentEvent) -> Messages:
    if isinstance(event, Message):
        return [*messages, message_with_bytes(event.message)]
    return replaced(messages, event) if isinstance(event, InputReplaced) else messages


def said_by_root(events: Sequence[RecordedEvent]) -> list[tuple[int, AgentEvent]]:
    """The events of the run's own agent with their seqs, each message whole.

    Those of an attempt whose successor started again from the input are left out, and half a message too.
    """
    root_events: list[tuple[int, AgentEvent]] = []
    for recorded in events:
        event = _event(recorded)
        begun = root_events[-1][1] if root_events else None
        if not isinstance(begun, Message) or not begun.more:
            begun = None
        if isinstance(event, Started):
            root_events = _kept(root_events[:-1] if begun else root_events, event.discard_after_seq)
        elif isinstance(event, AgentEvent) and is_run(event.place):
            if begun and isinstance(event, Message):
                root_events.pop()
                event = replace(event, message=continued(begun.message, event.message))
            root_events.append((recorded.seq, event))
    return root_events


def _kept(root_events: list[tuple[int, AgentEvent]], last: int | None) -> list[tuple[int, AgentEvent]]:
    """The part of a run that its next attempt goes on from. `last`: the seq after which text is repeated."""
    if last is None or not any(seq > last and isinstance(event, Message) for seq, event in root_events):
        return root_events
    return [(seq, event) for seq, event in root_events if seq <= last]


def _counts(ending: Any) -> bool:
    return isinstance(ending, Completed) or (isinstance(ending, Failed) and ending.code == CUT_OFF)


def _is_cut_off(ending: Any) -> bool:
    return isinstance(ending, Failed) or ending.result.get("stop_reason") == CUT_OFF


def _with_text(root_events: list[AgentEvent]) -> list[AgentEvent]:
    """A run whose last answer was cut off, with a text in place of reasoning that providers refuse."""
    for index in reversed(range(len(root_events))):
        event = root_events[index]
        if isinstance(event, Message) and event.message["role"] == "assistant":
            if event.message["content"] and all(map(is_unsigned, event.message["content"])):
                noted = replace(event, message={**event.message, "content": [{"text": NO_TEXT}]})
                return [*root_events[:index], noted, *root_events[index + 1 :]]
            break
    return root_events


def _is_complete(message: Mapping[str, Any]) -> bool:
    """Whether an exchange may end with a message: an answer, or the results of all tools.

    Not with a call that has no result, nor with unsigned reasoning alone: an answer that broke off. Providers
    refuse a conversation with either in it.
    """
    content = message["content"]
    if message["role"] == "user":
        return any("toolResult" in block for block in content)
    return not tool_uses(message) and (not content or not all(map(is_unsigned, content)))


def _words(messages: Messages, ending: Any) -> Messages:
    """Question and answer, for an agent without the tools and the model of the one that answered."""
    found = joined(_without_tools(messages))
    if isinstance(ending, Completed) and ending.result.get("structured_output") is not None:
        found = joined([*found, *_result(ending)])
    elif not found or found[-1]["role"] != "assistant":
        found += _result(ending) or _tool_results(messages[-1])
    return found if found and found[-1]["role"] == "assistant" else []


def _without_tools(messages: Messages) -> Iterator[dict[str, Any]]:
    for message in messages:
        content: Messages = []
        for block in message["content"]:
            if "citationsContent" in block:
                content.append({"text": message_text({"content": [block]})})
            elif block.keys() & {"text", *MEDIA}:
                content.append(block)
        if content:
            yield {"role": message["role"], "content": content}


def _result(ending: Any) -> Messages:
    """A run's result as an answer."""
    text = result_text(ending.result) if isinstance(ending, Completed) else ""
    return [_answer(text)] if text else []


def _tool_results(message: Mapping[str, Any]) -> Messages:
    """The last tool results as an answer, of a run whose result lacks them, as those of older releases do."""
    text = tool_text(message)
    return [_answer(text)] if text else []


def _answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"text": text}]}


def _cut(conversation: Messages) -> Messages:
    """The longest end of the conversation that fits and is valid, without tools if only that fits."""
    return _end_of(conversation) or _end_of(joined(_without_tools(conversation)))


def _end_of(conversation: Messages) -> Messages:
    room, begin = MAX_MEMORY_BYTES, len(conversation)
    for place in reversed(range(len(conversation))):
        message = conversation[place]
        room -= json_size(message)
        if room < 0:
            break
        if message["role"] == "user" and not any("toolResult" in block for block in message["content"]):
            begin = place
    return conversation[begin:]


def _last(messages: Messages, count: int) -> Messages:
    return messages[max(0, len(messages) - count) :]


def _before(queued: Queued) -> int | None:
    """The number of earlier messages to keep: none if the input was a whole conversation."""
    whole = isinstance(queued.input, list) and bool(queued.input) and "role" in queued.input[0]
    return 0 if whole else None


def _brings_results(recorded: RecordedEvent) -> bool:
    return recorded.type == Message.type and b'"toolResult":' in recorded.data


def _event(recorded: RecordedEvent) -> Any:
    return decode(recorded.type, recorded.version, recorded.data)
