"""Text that no longer counts: finds where it begins in the log, and which of it to withhold. Pure.

An agent does not wait for the seqs of its text. So it states how much text it discards, and the log counts
back from the `llm.discarded`, in the transaction that stores it. Unfinished text of a run that may redact is
withheld by its next attempt, or by an ending other than `lifecycle.completed`: nothing has judged it. With a
redacted answer its earlier tries are withheld, which may have said the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, filterfalse
from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.codec import EncodedEvent, encode, to_json
from runstore.core.events import (
    TEXT_TYPES,
    AgentFinished,
    AgentStarted,
    Completed,
    Discarded,
    DiscardReason,
    EventType,
    Message,
    Redacted,
    Started,
    WithheldText,
)
from runstore.core.folds.transcript import length_of
from runstore.eventlog.admission import Append

SPOKEN = TEXT_TYPES | {Message.type}  # types that may be withheld
READ = SPOKEN | {AgentStarted.type, AgentFinished.type, Discarded.type}  # types that are examined
WITHHELD: DiscardReason = "redacted"


class TextEvent(Struct, frozen=True, gc=False):
    """An event of a run that may hold text. `data`: as stored."""

    seq: int
    type: EventType
    data: bytes


class Withheld(Struct, frozen=True):
    """Stored events that become tombstones, all with the same data."""

    seqs: list[int]
    data: bytes


class Settled(Struct):
    """A run's events with their discards complete, and the stored ones to withhold."""

    events: list[EncodedEvent]
    withheld: list[Withheld]
    redacts: bool = False


class _Words(Struct, frozen=True):
    """A message, which may be of any shape if a program of its own has recorded it."""

    role: Any = None
    content: Any = None


class _Speech(Struct, frozen=True):
    """An event's agent and call, and its text or message."""

    agent: str = ""
    call_id: str | None = None
    text: str = ""
    message: _Words = _Words()
    more: bool = False

    @property
    def answers(self) -> bool:
        """Whether it is an agent's message, or a part of one."""
        return bool(self.message.role == "assistant")

    @property
    def calls(self) -> bool:
        """Whether it calls a tool."""
        content = self.message.content
        return isinstance(content, list) and any(
            isinstance(block, dict) and "toolUse" in block for block in content
        )


class _Began(Struct, frozen=True):
    redacts: bool = False
    redacts_last: bool = False


_read_speech = msgspec.json.Decoder(_Speech).decode
_read_discarded = msgspec.json.Decoder(Discarded).decode
_read_began = msgspec.json.Decoder(_Began).decode
_read_started = msgspec.json.Decoder(Started).decode


def discards(append: Append) -> bool:
    """Whether an append may discard text."""
    return not append.text and any(
        event.type in (Discarded.type, Started.type) or _breaks_off(event) for event in append.events
    )


def says_redacts(data: bytes) -> bool:
    """Whether an `agent.started` says that the agent's answers may be redacted."""
    return _read_began(data).redacts


def settle(
    events: Sequence[EncodedEvent],
    first_seq: int,
    earlier: Callable[[], Iterable[TextEvent]],
    redacted: Callable[[], bool] = lambda: False,
) -> Settled:
    """Complete the discards among a run's new events.

    Args:
        first_seq: of these events.
        earlier: finds the run's earlier events whose type is in READ, newest first.
        redacted: whether one of the run's earlier `agent.started` says `redacts`.
    """
    settled = Settled([*events], [])
    for index, event in enumerate(events):
        if event.type == Discarded.type:
            _discard(settled, first_seq, index, earlier)
        elif event.type == Started.type:
            _start(settled, first_seq, index, earlier)
        elif _breaks_off(event) and (_any_redacts(events[:index]) or redacted()):
            _break_off(settled, first_seq, index, earlier)
    return settled


def _breaks_off(event: EncodedEvent) -> bool:
    """Whether a run ends in the middle of its answers."""
    return event.ends and event.type != Completed.type


def _any_redacts(events: Iterable[EncodedEvent]) -> bool:
    return any(event.type == AgentStarted.type and says_redacts(event.data) for event in events)


def _discard(
    settled: Settled, first_seq: int, index: int, earlier: Callable[[], Iterable[TextEvent]]
) -> None:
    event, own_seq = settled.events[index], first_seq + index
    discarded = _read_discarded(event.data)
    before = _backwards(settled.events[:index], first_seq, earlier)
    taken = _TakenBack(discarded, own_seq, discarded.length)
    reached = next(filterfalse(taken.take, before), None)
    from_seq = discarded.from_seq or taken.from_seq
    complete = msgspec.structs.replace(discarded, from_seq=from_seq)
    settled.events[index] = msgspec.structs.replace(event, data=to_json(complete))
    if discarded.reason == WITHHELD:
        rest = before if reached is None else chain((reached,), before)
        tombstone = Redacted(agent=discarded.agent, call_id=discarded.call_id)
        _bury(settled, first_seq, [*taken.texts, *_tries(discarded, from_seq, rest)], tombstone)
        _bury(settled, first_seq, taken.messages, msgspec.structs.replace(tombstone, message=True))


def _start(settled: Settled, first_seq: int, index: int, earlier: Callable[[], Iterable[TextEvent]]) -> None:
    started = _read_started(settled.events[index].data)
    if started.withholds and started.discard_after_seq is not None:
        seqs: defaultdict[Redacted, list[int]] = defaultdict(list)
        for event in _backwards(settled.events[:index], first_seq, earlier):
            if event.seq <= started.discard_after_seq:
                break
            if event.type in TEXT_TYPES:
                speech = _read_speech(event.data)
                seqs[Redacted(agent=speech.agent, call_id=speech.call_id)].append(event.seq)
        for tombstone, buried in seqs.items():
            _bury(settled, first_seq, buried, tombstone)


def _break_off(
    settled: Settled, first_seq: int, index: int, earlier: Callable[[], Iterable[TextEvent]]
) -> None:
    """Withhold each agent's text since its last answer, and that answer if a hook had yet to judge it."""
    lasts: defaultdict[Redacted, _Last] = defaultdict(_Last)
    for event in _backwards(settled.events[:index], first_seq, earlier):
        if event.type in READ:
            speech = _read_speech(event.data)
            lasts[Redacted(agent=speech.agent, call_id=speech.call_id)].take(event, speech)
    withheld = []
    for tombstone, last in lasts.items():
        _bury(settled, first_seq, last.unjudged, tombstone)
        _bury(settled, first_seq, last.messages, msgspec.structs.replace(tombstone, message=True))
        if seqs := [*last.unjudged, *last.messages]:
            withheld.append(WithheldText(tombstone.agent, min(seqs), tombstone.call_id))
    if withheld:
        ending = settled.events[index]
        data = {**msgspec.json.decode(ending.data), "withheld": withheld}
        settled.events[index] = msgspec.structs.replace(ending, data=to_json(data))


class _Last(Struct):
    """The last words of an agent, as its events come backwards.

    `unjudged`: text to withhold. `messages`: its last answer, to withhold, too.
    """

    unjudged: list[int] = msgspec.field(default_factory=list)
    messages: list[int] = msgspec.field(default_factory=list)
    _said: list[int] = msgspec.field(default_factory=list)  # the text of its last answer
    _answer: list[int] = msgspec.field(default_factory=list)  # the last answer itself
    _answers: int = 0  # answers so far
    _calls: bool = False  # the last answer calls tools
    _went_on: bool = False  # it has said more since
    _finished: bool = False  # it has finished since, so that its hooks have judged the answer
    _began: bool = False  # the beginning of the work that led to the last answer was seen

    def take(self, event: TextEvent, speech: _Speech) -> None:
        if event.type == AgentFinished.type:
            self._finished |= not self._answers
        elif event.type == AgentStarted.type:
            # Before that is an earlier attempt. Without an answer since, the last one may be from there.
            if self._answers and not self._began:
                self._began = True
                judged = self._calls or self._went_on or self._finished
                if not judged and _read_began(event.data).redacts_last:
                    self.unjudged += self._said
                    self.messages += self._answer
        elif event.type in TEXT_TYPES:
            if not self._answers:
                self.unjudged.append(event.seq)
            elif self._answers == 1:
                self._said.append(event.seq)
        elif speech.answers:
            if not (speech.more and self._answers):  # otherwise a part of the same answer
                self._answers += 1
                self._went_on |= self._answers == 1 and bool(self.unjudged)
            if self._answers == 1:
                self._answer.append(event.seq)
                self._calls |= speech.calls


def _bury(settled: Settled, first_seq: int, seqs: Sequence[int], tombstone: Redacted) -> None:
    settled.redacts = True
    for seq in seqs:
        if seq >= first_seq:
            at = settled.events[seq - first_seq].at
            settled.events[seq - first_seq] = encode(tombstone, at=at)
    if stored := [seq for seq in seqs if seq < first_seq]:
        settled.withheld.append(Withheld(stored, to_json(tombstone)))


def _backwards(
    new: Sequence[EncodedEvent], first_seq: int, earlier: Callable[[], Iterable[TextEvent]]
) -> Iterator[TextEvent]:
    for index in range(len(new) - 1, -1, -1):
        yield TextEvent(first_seq + index, new[index].type, new[index].data)
    yield from earlier()


class _TakenBack(Struct):
    """What a discard takes back, as the run's events come backwards.

    A discard of length 0 discards the last answer if it was not streamed.

    `texts`: text, and all but the last part of an answer. `messages`: complete answers. `from_seq`: the
    lowest seq of both.
    """

    _discarded: Discarded
    from_seq: int
    _left: int
    texts: list[int] = msgspec.field(default_factory=list)
    messages: list[int] = msgspec.field(default_factory=list)

    def take(self, event: TextEvent) -> bool:
        """Whether the discarded text does not begin after this event."""
        discarded, bounded = self._discarded, bool(self._discarded.from_seq)
        found_all = self._left <= 0 and not bounded
        if event.seq < discarded.from_seq or (found_all and discarded.length):
            return False
        if event.type not in SPOKEN or not _is_of(discarded, speech := _read_speech(event.data)):
            return True
        if event.type in TEXT_TYPES:
            if found_all:
                return False
            self._left -= length_of(speech.text)
            self.texts.append(event.seq)
            self.from_seq = event.seq
            return True
        part = speech.answers and speech.more
        if self.messages and not (part or bounded or discarded.length):
            return False  # the message before the answer: its question, or an earlier answer
        if speech.answers:
            (self.texts if part else self.messages).append(event.seq)
            self.from_seq = event.seq
        return True


def _tries(discarded: Discarded, from_seq: int, events: Iterable[TextEvent]) -> Iterator[int]:
    """The seqs of the text of an answer's earlier tries: discarded, and said since the answer before."""
    first = from_seq
    for event in events:
        if event.seq >= from_seq or event.type not in READ:
            continue
        if not _is_of(discarded, speech := _read_speech(event.data)):
            continue
        if event.type == AgentStarted.type or speech.answers:
            return
        if event.type == Discarded.type:
            first = min(first, _read_discarded(event.data).from_seq)
        elif event.type in TEXT_TYPES and event.seq >= first:
            yield event.seq


def _is_of(discarded: Discarded, speech: _Speech) -> bool:
    return (speech.agent, speech.call_id) == (discarded.agent, discarded.call_id)
