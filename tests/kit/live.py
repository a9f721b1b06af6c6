"""Commits for a live feed, and feeds that share a Redis as processes do."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import redis

from runstore.core.codec import TailEvent, encode
from runstore.core.events import Custom, Event
from runstore.core.ids import new_run_id
from runstore.core.ports import Committed
from runstore.feed.redis.feed import RedisFeed
from tests.kit.events import token
from tests.kit.polling import until
from tests.servers.shared import shared_redis

RUN = new_run_id()


def committed(first: int, *events: Event | Custom, run_id: str = RUN) -> Committed:
    encoded = [encode(event, at=0) for event in events]
    return Committed(run_id, first, encoded, any(event.control for event in encoded))


def seqs(events: Sequence[TailEvent] | None) -> list[int] | None:
    """The seqs of what a reader takes; None when it meets a gap."""
    return None if events is None else [event.seq for event in events]


@contextmanager
def own_prefix() -> Iterator[str]:
    """A unique prefix of keys in the shared Redis. Its keys are deleted afterwards."""
    prefix = f"runstore-test-{secrets.token_hex(6)}"
    try:
        yield prefix
    finally:
        with redis.Redis.from_url(shared_redis()) as client:
            if keys := list(client.scan_iter(f"{prefix}:*", count=10_000)):
                client.unlink(*keys)


@contextmanager
def processes(count: int, url: str, prefix: str = "runstore") -> Iterator[list[RedisFeed]]:
    """So many feeds at one Redis, each for another process."""
    with ExitStack() as stack:
        yield [stack.enter_context(RedisFeed(url, prefix=prefix)) for _ in range(count)]


async def hears(here: RedisFeed, there: RedisFeed) -> None:
    """Return when an event published `here` arrives `there`."""
    run_id, seq = new_run_id(), 0

    def arrives() -> bool:
        nonlocal seq
        seq += 1
        here.publish([committed(seq, token(), run_id=run_id)])
        return live.take(0) != []

    with there.subscribe(run_id) as live:
        await until(arrives)
