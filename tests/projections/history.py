"""A random log of many runs: its appends, and its stored events."""

from collections.abc import Sequence
from random import Random
from typing import Any

from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, encode
from runstore.core.events import (
    Cancelled,
    CancelRequested,
    Completed,
    Deleted,
    Discarded,
    Event,
    Failed,
    Message,
    Queued,
    Redacted,
    Started,
    Token,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.folds.tool_usage import tool_usage_of
from runstore.core.ids import first_run_id
from runstore.core.run import fold, summary
from runstore.core.usage import usage_of

BEGIN = 1_780_000_000_000  # 2026-05-28T20:26:40Z
HOUR = 3_600_000
WORDS = ("sun", "moon", "Über", "café", "the", "42", "get_weather", "北京", "O'Neil", "naïve", "a", "mars")


class History:
    """Runs whose events are interleaved, with redactions, deletions and purges among them.

    appended: every event as a reader got it that was never behind.
    """

    def __init__(self, seed: int = 1) -> None:
        self.random = Random(seed)
        self.appended: list[RecordedEvent] = []
        self._stored: dict[str, list[RecordedEvent]] = {}
        self._at = BEGIN

    def write(self, runs: int) -> "History":
        """Write so many runs, up to five of them at once."""
        begun = [self._run(number) for number in range(runs)]
        open = [begun.pop() for _ in range(min(5, runs))]
        while open:
            run = self.random.choice(open)
            if next(run, None) is None:
                open.remove(run)
                if begun:
                    open.append(begun.pop())
        return self

    @property
    def log(self) -> list[RecordedEvent]:
        """The stored events in order of position."""
        stored = [event for events in self._stored.values() for event in events]
        return sorted(stored, key=lambda event: event.position)

    def append(self, run_id: str, event: Event) -> RecordedEvent:
        self._at += self.random.choice((1, 7, 120, 900, HOUR // 4))
        of_run = self._stored.setdefault(run_id, [])
        seq = of_run[-1].seq + 1 if of_run else 1
        encoded = encode(event, at=self._at)
        recorded = RecordedEvent(
            run_id, seq, len(self.appended) + 1, encoded.type, encoded.version, encoded.ends, encoded.at,
            encoded.data,
        )  # fmt: skip
        self.appended.append(recorded)
        of_run.append(recorded)
        return recorded

    def redact(self, run_id: str, agent: str, from_seq: int) -> None:
        self.append(run_id, Discarded(agent=agent, reason="redacted", length=3, from_seq=from_seq))
        tombstone = encode(Redacted(agent=agent))
        self._stored[run_id] = [
            replace(event, type=tombstone.type, version=tombstone.version, data=tombstone.data)
            if event.seq >= from_seq and event.type in ("llm.message", "llm.token")
            else event
            for event in self._stored[run_id]
        ]

    def purge(self, run_id: str, *, left: int = 0) -> None:
        """`left`: so many of the last events are still there."""
        events = self._stored[run_id]
        counts: dict[str, int] = {}
        for event in events:
            counts[event.type] = counts.get(event.type, 0) + 1
        run, used, tools = fold(run_id, events), usage_of(events), tool_usage_of(events)
        self.append(run_id, summary(run, by="retention", counts=counts, used=used, tools=tools))
        self._stored[run_id] = [*events[len(events) - left : -1], events[-1]]

    def _say(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randrange(1, 7)))

    def _run(self, number: int) -> Any:
        random, run_id = self.random, first_run_id(BEGIN + number)
        agent = random.choice(("demo", "team"))
        session = random.choice((None, "s-1", "s-2"))
        asked: Any = random.choice((self._say(), [{"text": self._say()}], {"question": [self._say(), 7]}))
        user = random.choice(("ann", "bob"))
        yield self.append(run_id, Queued(agent=agent, user_id=user, session_id=session, input=asked))
        if random.random() < 0.9:
            yield self.append(run_id, Started(worker_id="w", attempt=1, reason="claimed"))
            for _ in range(random.randrange(4)):
                yield from self._turn(run_id, agent)
        yield from self._end(run_id)

    def _turn(self, run_id: str, agent: str) -> Any:
        random = self.random
        yield self.append(run_id, Token(agent=agent, text="word "))
        if random.random() < 0.9:
            inputs = random.randrange(1_000)
            yield self.append(
                run_id,
                Usage(
                    agent=agent, model=random.choice(("big", "small", None)), input_tokens=inputs,
                    output_tokens=random.randrange(100), cache_read_tokens=inputs // 2,
                    cache_write_tokens=inputs // 5, reasoning_tokens=random.randrange(9),
                    first_token_ms=random.choice((None, 0, 30)), duration_ms=random.choice((None, 90)),
                    incomplete=random.random() < 0.1,
                ),
            )  # fmt: skip
        content = [{"text": self._say()}, {"toolUse": {"name": "hidden", "input": {}, "toolUseId": "u"}}]
        said = self.append(run_id, Message(agent=agent, message={"role": "assistant", "content": content}))
        yield said
        if random.random() < 0.15:
            yield self.redact(run_id, agent, said.seq) or said
        if random.random() < 0.6:
            call: dict[str, Any] = {
                "agent": agent,
                "tool_use_id": f"u{said.seq}",
                "name": random.choice(("add", "find")),
            }
            yield self.append(run_id, ToolStarted(**call, input={"q": self._say()}))
            if random.random() < 0.9:
                finish = random.choice((ToolFinished, ToolFailed))
                yield self.append(run_id, finish(**call, output=[{"text": self._say()}]))

    def _end(self, run_id: str) -> Any:
        random, outcome = self.random, self.random.randrange(8)
        if outcome == 0:
            return  # it goes on
        if outcome == 1:
            yield self.append(run_id, CancelRequested(by="ann", reason="user"))
            yield self.append(run_id, Cancelled(reason="user", forced=random.random() < 0.5))
        elif outcome == 2:
            yield self.append(run_id, Failed(code=random.choice(("worker_lost", "timeout")), message="no"))
        else:
            yield self.append(run_id, Completed(result={"text": self._say()}))
        if random.random() < 0.3:
            yield self.append(run_id, Deleted(by="ann"))
        if random.random() < 0.3:
            self.purge(run_id, left=random.choice((0, 0, 2)))


def batches(events: Sequence[RecordedEvent], random: Random) -> list[Sequence[RecordedEvent]]:
    """The events in batches of any size."""
    cut: list[Sequence[RecordedEvent]] = []
    start = 0
    while start < len(events):
        size = random.choice((1, 2, 3, 10, 50))
        cut.append(events[start : start + size])
        start += size
    return cut
