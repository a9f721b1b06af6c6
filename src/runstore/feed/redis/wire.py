"""What processes tell each other through Redis: the keys, and the entries of their streams. Pure.

A run has a stream of its own. An entry's id is `<seq of its last event>-0`, so that Redis refuses what comes
late or twice. An entry has one field: its name says which process wrote it and in which form, its value is
the events, or nothing: then it is a hint to read the log. The control stream holds what listeners hear of.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from runstore.core.codec import EncodedEvent
from runstore.core.events import EventType, Queued
from runstore.core.ports import Committed
from runstore.eventlog.rules.control import is_control

FORM = b"1"  # of an entry's value; what has another one is a hint
MAX_ENTRY_BYTES = 64 << 10  # of an entry's events; more come as a hint, for no ring keeps much more
MAX_JOINED_BYTES = 16 << 10  # of commits that go as one entry: a ring has room for a few of them
MAX_RUN_ENTRIES = 32  # of a run that Redis keeps, about: for readers that are a moment behind
MAX_CONTROL_ENTRIES = 1_000  # that Redis keeps, about
MAX_CONTROL_EVENTS = 256  # of one entry

NO_EVENTS = b""

Entry = tuple[bytes, list[bytes]]  # as Redis gives it: its id, and its fields and values one after another
Command = tuple[str | bytes | int, ...]


class Keys:
    """`<prefix>:run:<run_id>`, `<prefix>:control` and, for each process, `<prefix>:wake:<process>`."""

    def __init__(self, prefix: str, process: str) -> None:
        self._run = f"{prefix}:run:".encode()
        self.control = f"{prefix}:control".encode()
        self.wake = f"{prefix}:wake:{process}".encode()

    def run(self, run_id: str) -> bytes:
        return self._run + run_id.encode()

    def run_id(self, key: bytes) -> str:
        return key[len(self._run) :].decode()


class Part(Struct):
    """Consecutive events of one run, on their way into one entry."""

    run_id: str
    first_seq: int
    events: list[EncodedEvent]
    size: int
    redacts: bool = False  # what Redis and other processes have of the run is to be dropped

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.events) - 1

    @property
    def ends(self) -> bool:
        return any(event.ends for event in self.events)


class ControlEvent(Struct, frozen=True, gc=False, array_like=True):
    """An event of the control stream. Of its data only whose a queued run is; the log has the rest."""

    run_id: str
    seq: int
    type: EventType
    version: int
    ends: bool
    at: int
    data: bytes = b""


class Owner(Struct, frozen=True):
    """What a listener has to know of a queued run, whose input may be large."""

    user_id: str


_read_owner = msgspec.json.Decoder(Owner).decode


class Wire:
    """Writes and reads entries in the name of one process."""

    def __init__(self, process: str) -> None:
        self.tag = FORM + process.encode()
        self._encoder = msgspec.msgpack.Encoder()
        self._run_decoder = msgspec.msgpack.Decoder(tuple[int, list[EncodedEvent]])
        self._control_decoder = msgspec.msgpack.Decoder(list[ControlEvent])

    def run_entry(self, part: Part) -> bytes:
        """The value of a run's entry; a hint, after which others read the log, if it is large or redacts."""
        if part.size > MAX_ENTRY_BYTES or part.redacts:
            return NO_EVENTS
        return self._encoder.encode((part.first_seq, part.events))

    def control_entry(self, events: Sequence[ControlEvent]) -> bytes:
        """The value of an entry of the control stream."""
        return self._encoder.encode(events)

    def read_run(self, run_id: str, entry: Entry) -> Committed | int | None:
        """The entry's events; the seq up to which the log has some, of a hint; None of our own entries."""
        id, (tag, value) = entry[0], entry[1][:2]
        if tag == self.tag:
            return None
        last_seq = int(id.partition(b"-")[0])
        if not value or not tag.startswith(FORM):
            return last_seq
        try:
            first_seq, events = self._run_decoder.decode(value)
        except msgspec.MsgspecError:
            return last_seq
        return Committed(run_id, first_seq, events, control=False)

    def read_control(self, entry: Entry) -> list[Committed]:
        """What the listeners hear of; nothing of our own entries and of other forms."""
        tag, value = entry[1][:2]
        if tag == self.tag or not tag.startswith(FORM):
            return []
        try:
            events = self._control_decoder.decode(value)
        except msgspec.MsgspecError:
            return []
        return [
            Committed(
                e.run_id,
                e.seq,
                [EncodedEvent(e.type, e.version, e.ends, e.at, e.data)],
                control=True,
                remote=True,
            )
            for e in events
        ]


def join(commits: Iterable[Committed]) -> list[Part]:
    """What was committed, in as few parts as it takes, each run's in order."""
    parts: list[Part] = []
    newest: dict[str, Part] = {}
    for commit in commits:
        size = sum([len(event.data) for event in commit.events])
        part = newest.get(commit.run_id)
        joins = part is not None and part.last_seq + 1 == commit.first_seq
        if part is not None and joins and part.size + size <= MAX_JOINED_BYTES:
            part.events += commit.events
            part.size += size
            part.redacts |= commit.redacts
        else:
            part = newest[commit.run_id] = Part(
                commit.run_id, commit.first_seq, [*commit.events], size, commit.redacts
            )
            parts.append(part)
    return parts


def _owner(event: EncodedEvent) -> bytes:
    return msgspec.json.encode(_read_owner(event.data)) if event.type == Queued.type else b""


def control_events(commits: Iterable[Committed]) -> list[ControlEvent]:
    """What listeners of other processes are to hear of."""
    return [
        ControlEvent(commit.run_id, seq, e.type, e.version, e.ends, e.at, _owner(e))
        for commit in commits
        if commit.control
        for seq, e in enumerate(commit.events, commit.first_seq)
        if is_control(e)
    ]
