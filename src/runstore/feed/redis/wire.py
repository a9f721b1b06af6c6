"""The keys and stream entries that processes exchange through Redis. Pure.

Each run has a stream. An entry's id is `<seq of its last event>-0`, so that Redis refuses late and repeated
entries. An entry has one field. Its name holds the form and the process that wrote it; its value holds the
events. An empty value is a hint to read the log. The control stream carries the events for listeners.
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from runstore.core.codec import EncodedEvent
from runstore.core.events import EventType, Queued
from runstore.core.ports import Committed
from runstore.core.run import owner_of

FORM = b"1"  # version of the value's encoding; an entry with another form is a hint
MAX_ENTRY_BYTES = 64 << 10  # bytes of an entry's events; larger ones go as a hint, as no ring keeps much more
MAX_JOINED_BYTES = 16 << 10  # bytes of commits joined into one entry, as a ring has room for a few entries
MAX_RUN_ENTRIES = 32  # entries that Redis keeps of a run, approximately: for readers slightly behind
MAX_CONTROL_ENTRIES = 1_000  # entries that Redis keeps of the control stream, approximately
MAX_CONTROL_EVENTS = 256  # events of one control entry

NO_EVENTS = b""

Entry = tuple[bytes, list[bytes]]  # in Redis' form: the id, then field names and values in turn
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
    """Consecutive events of one run that go into one entry."""

    run_id: str
    first_seq: int
    events: list[EncodedEvent]
    size: int
    redacts: bool = False  # Redis and other processes must drop their copies of the run

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.events) - 1

    @property
    def ends(self) -> bool:
        return any(event.ends for event in self.events)


class ControlEvent(Struct, frozen=True, gc=False, array_like=True):
    """An event of the control stream. `data` holds only the owner of a queued run; the log has the rest."""

    run_id: str
    seq: int
    type: EventType
    version: int
    ends: bool
    at: int
    data: bytes = b""


class Wire:
    """Encodes and decodes entries for one process."""

    def __init__(self, process: str) -> None:
        self.tag = FORM + process.encode()
        self._encoder = msgspec.msgpack.Encoder()
        self._run_decoder = msgspec.msgpack.Decoder(tuple[int, list[EncodedEvent]])
        self._control_decoder = msgspec.msgpack.Decoder(list[ControlEvent])

    def run_entry(self, part: Part) -> bytes:
        """The value of a run's entry; empty, as a hint to read the log, if it is too large or redacts."""
        if part.size > MAX_ENTRY_BYTES or part.redacts:
            return NO_EVENTS
        return self._encoder.encode((part.first_seq, part.events))

    def control_entry(self, events: Sequence[ControlEvent]) -> bytes:
        """The value of an entry of the control stream."""
        return self._encoder.encode(events)

    def read_run(self, run_id: str, entry: Entry) -> Committed | int | None:
        """The events of an entry; of a hint, the seq that the log has reached; None for our own entries."""
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
        """The events for listeners; none from our own entries and other forms."""
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
    """Join commits into as few parts as possible, keeping each run's order."""
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
    return msgspec.json.encode({"user_id": owner_of(event).user_id}) if event.type == Queued.type else b""


def control_events(commits: Iterable[Committed]) -> list[ControlEvent]:
    """The events of commits that listeners in other processes need."""
    return [
        ControlEvent(commit.run_id, seq, e.type, e.version, e.ends, e.at, _owner(e))
        for commit in commits
        if commit.control
        for seq, e in enumerate(commit.events, commit.first_seq)
        if e.control
    ]
