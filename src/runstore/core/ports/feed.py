"""The live feed: it wakes readers after a commit."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from runstore.core.codec import EncodedEvent, TailEvent


class Committed(Struct, frozen=True):
    """One run's part of a commit.

    `control`: it holds a lifecycle event or a cancel request. `remote`: another process committed it.
    `redacts`: it withholds earlier events, and caches must drop their copies of them.
    """

    run_id: str
    first_seq: int
    events: Sequence[EncodedEvent]
    control: bool
    remote: bool = False
    redacts: bool = False


class Subscription(Protocol):
    """One reader's position in the live feed of a run."""

    @property
    def generation(self) -> int:
        """Changes when cached copies of the run's events may be stale; the reader then drops its copies."""

    def take(self, after: int) -> Sequence[TailEvent] | None:
        """The events from `after` + 1 on, up to the run's ending; None if there is a gap: read the log."""

    def correct(self, last: int) -> None:
        """The log ends at `last`, as read since the last `take`: later events in the feed are invalid."""

    async def wait(self, timeout_s: float) -> bool:
        """Wait for news since the last `take`; False after `timeout_s`, or when the feed closes."""


class Publisher(Protocol):
    """Receives commits."""

    def publish(self, commits: Sequence[Committed]) -> None:
        """Publish committed events. Called by the writer's thread; does not block."""


class LiveFeed(Publisher, Protocol):
    """Wakes readers after a commit. It is a hint and a cache: a loss of all its data costs only time."""

    @property
    def closing(self) -> bool:
        """Whether the feed was closed."""

    def subscribe(self, run_id: str) -> AbstractContextManager[Subscription]:
        """Register for a run's news: every event committed from now on is taken, or noticed as a gap."""

    def listen(self, listener: Callable[[Committed], None]) -> None:
        """Call `listener` for each commit with `control`; it must not block.

        It is called on the writer's thread. For another process's commit it is called on a thread of the
        feed, once for each control event. Their data is `b""`, except for a queued run's `user_id`.
        """

    def close(self) -> None:
        """Wake every reader for the last time."""
