"""A log of one run that is a list: what an agent records is encoded and decoded as by the real log."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeVar

from runstore.core.codec import EncodedEvent, RecordedEvent, decode, encode
from runstore.core.errors import RunstoreError
from runstore.core.events import Custom, Event, InputAdded, Queued, Started, Token, Unknown
from runstore.core.ports import AddedMessage, RunContext
from runstore.runtime.memory.resume import discard_after

E = TypeVar("E")


def context(attempt: int = 1, agent: str = "demo") -> RunContext:
    return RunContext("run-1", "local", agent, None, {"colour": "green"}, attempt)


class ListRecorder:
    """The port `RunRecorder`. Refuses everything after `refusal` is set."""

    def __init__(self, history: Sequence[RecordedEvent] = ()) -> None:
        self.recorded = list(history)
        self.committed: list[int] = []  # the seqs that were waited for
        self.refusal: RunstoreError | None = None
        if not history:
            self.keep(Queued(agent="demo", user_id="local", input="hi"))
            self.keep(Started(worker_id="worker-1", attempt=1, reason="claimed"))

    def keep(self, event: Event | Custom | EncodedEvent) -> None:
        if self.refusal is not None:
            raise self.refusal
        encoded = event if isinstance(event, EncodedEvent) else encode(event)
        seq = len(self.recorded) + 1
        self.recorded.append(
            RecordedEvent(
                "run-1", seq, seq, encoded.type, encoded.version, encoded.ends, encoded.at, encoded.data
            )
        )

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        self.keep(event)

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        self.keep(event)
        self.committed.append(len(self.recorded))
        await asyncio.sleep(0)  # a commit takes a while, and others go on

    async def added(self, after: int) -> list[AddedMessage]:
        later = enumerate(read(self.recorded[after:]), after + 1)
        return [AddedMessage(seq, event.content) for seq, event in later if isinstance(event, InputAdded)]

    @property
    def events(self) -> list[Event | Custom | Unknown]:
        return read(self.recorded)

    def of(self, cls: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, cls)]

    def types(self, *without: str) -> list[str]:
        return [event.type for event in self.recorded if event.type not in without]


def read(recorded: Sequence[RecordedEvent]) -> list[Event | Custom | Unknown]:
    return [decode(event.type, event.version, event.data) for event in recorded]


def again_after(history: Sequence[RecordedEvent], attempt: int) -> list[RecordedEvent]:
    """The log with the start of the next attempt, as a supervisor writes it."""
    recorder = ListRecorder(history)
    seq = discard_after(history)
    recorder.keep(Started(worker_id="w", attempt=attempt, reason="adopted", discard_after_seq=seq))
    return recorder.recorded


def spoken(recorded: Sequence[RecordedEvent]) -> dict[str, str]:
    """The text of each agent in a client that drops text as events ask."""
    kept: list[tuple[int, Token]] = []
    for seq, event in enumerate(read(recorded), 1):
        if isinstance(event, Started) and event.discard_after_seq is not None:
            kept = [each for each in kept if each[0] <= event.discard_after_seq]
        elif isinstance(event, Token):
            kept.append((seq, event))
    said: defaultdict[str, str] = defaultdict(str)
    for _, token in kept:
        said[token.agent] += token.text
    return dict(said)


def text(tokens: Sequence[Any]) -> str:
    return "".join(token.text for token in tokens)
