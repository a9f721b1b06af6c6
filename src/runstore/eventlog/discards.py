"""Text that no longer counts: finds where it begins in the log, and which of it to withhold. Pure.

An agent does not wait for the seqs of its text. So it states how much text it discards, and the log counts
back from the `llm.discarded`, in the transaction that stores it. Unfinished text of a run that may redact is
withheld by its next attempt, or by an ending other than `lifecycle.completed`: nothing has judged it. With a
redacted answer its earlier tries are withheld, which may have said the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

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


class _Role(Struct, frozen=True):
    role: str = ""
    content: list[dict[str, msgspec.Raw]] = []


class _Speech(Struct, frozen=True):
    """The speaker of an event; of a message, only whether it is an answer."""

    agent: str = ""
    call_id: str | None = None
    text: str = ""
    message: _Role | None = None
    more: bool = False


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
    texts, messages, from_seq, reached = _taken_back(discarded, own_seq, before)
    complete = msgspec.structs.replace(discarded, from_seq=from_seq)
    settled.events[index] = msgspec.structs.replace(event, data=to_json(complete))
    if discarded.reason == WITHHELD:
        texts += _tries(discarded, from_seq, chain(reached, before))
        tombstone = Redacted(agent=discarded.agent, call_id=discarded.call_id)
        _bury(settled, first_seq, texts, tombstone)
        _bury(settled, first_seq, messages, msgspec.structs.replace(tombstone, message=True))


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
    for tombstone, last in lasts.items():
        _bury(settled, first_seq, last.unjudged, tombstone)
        _bury(settled, first_seq, last.messages, msgspec.structs.replace(tombstone, message=True))


class _Last(Struct):
    """The last words of an agent, as its events come backwards.

    `unjudged`: text to withhold. `messages`: its last answer, to withhold, too.
    """

    unjudged: list[int] = msgspec.field(default_factory=list)
    messages: list[int] = msgspec.field(default_factory=list)
    _said: list[int] = msgspec.field(default_factory=list)  # the text of its last answer
    _answer: list[int] = msgspec.field(default_factory=list)  # the last answer itself
    _answers: int = 0  # answers so far
    _settled: bool = False  # it has finished, or its beginning is known

    def take(self, event: TextEvent, speech: _Speech) -> None:
        if event.type == AgentFinished.type:
            self._settled |= not self._answers
        elif event.type == AgentStarted.type:
            if not self._settled and _read_began(event.data).redacts_last:
                self.unjudged += self._said
                self.messages = self._answer
            self._settled = True
        elif event.type in TEXT_TYPES:
            if not self._answers:
                self.unjudged.append(event.seq)
            elif self._answers == 1:
                self._said.append(event.seq)
        elif speech.message is not None and speech.message.role == "assistant":
            if speech.more and self._answers == 1:  # a part of the same answer
                self._answer.append(event.seq)
                return
            self._answers += 1
            if self._answers == 1:
                self._answer.append(event.seq)
                calls = any("toolUse" in block for block in speech.message.content)
                self._settled |= calls or bool(self.unjudged)


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


def _taken_back(
    discarded: Discarded, own_seq: int, events: Iterable[TextEvent]
) -> tuple[list[int], list[int], int, list[TextEvent]]:
    """The seqs of the discarded text, those of complete answers, and the lowest of them; the event before.

    A discard of length 0 discards the last answer if it was not streamed.
    """
    texts: list[int] = []  # and all but the last part of an answer
    messages: list[int] = []
    from_seq, left, reached = own_seq, discarded.length, list[TextEvent]()
    for event in events:
        reached = [event]
        found_all = left <= 0 and discarded.length
        if event.seq < discarded.from_seq or (found_all and not discarded.from_seq):
            break
        if event.type in SPOKEN and _is_of(discarded, speech := _read_speech(event.data)):
            if event.type in TEXT_TYPES:
                if left <= 0 and not discarded.from_seq:
                    break
                from_seq, left = event.seq, left - length_of(speech.text)
                texts.append(event.seq)
            elif speech.message is not None:
                answers = speech.message.role == "assistant"
                part = answers and speech.more
                if messages and not (part or discarded.from_seq) and (answers or not discarded.length):
                    break  # before the answer: what it answers, or an earlier one
                if answers:
                    (texts if part else messages).append(event.seq)
                    from_seq = event.seq
    else:
        reached = []
    return texts, messages, discarded.from_seq or from_seq, reached


def _tries(discarded: Discarded, from_seq: int, events: Iterable[TextEvent]) -> Iterator[int]:
    """The seqs of the text of an answer's earlier tries: discarded, and said since the answer before."""
    first = from_seq
    for event in events:
        if event.seq < from_seq and event.type in READ and _is_of(discarded, _read_speech(event.data)):
            if event.type == Discarded.type:
                first = min(first, _read_discarded(event.data).from_seq)
            elif event.type in TEXT_TYPES and event.seq >= first:
                yield event.seq
            elif event.type != AgentFinished.type:
                return


def _is_of(discarded: Discarded, speech: _Speech) -> bool:
    return (speech.agent, speech.call_id) == (discarded.agent, discarded.call_id)
