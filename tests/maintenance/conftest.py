"""Fixtures of this room: a log on the test's own database."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from tests.servers.databases import empty_database


@pytest.fixture
def url(database_url: str) -> str:
    return database_url


@pytest.fixture
async def log(open_shared: Callable[..., SqlEventLog], feed: MemoryFeed) -> SqlEventLog:
    return open_shared(feed)


@pytest.fixture
def partitioned(tmp_path: Path) -> Iterator[str]:
    """The URL of a partitioned log, for a test that changes its schema."""
    with empty_database("partitioned", tmp_path) as url:
        yield url
