"""Fixtures of this room: the log of a test's own database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from tests.kit.database import open_log_at
from tests.servers.databases import empty_database


@pytest.fixture
async def log(url: str, feed: MemoryFeed) -> AsyncIterator[SqlEventLog]:
    """The log at `url`, a fixture of the test's module."""
    log = open_log_at(url, feed)
    yield log
    await log.close()


@pytest.fixture
def partitioned(tmp_path: Path) -> Iterator[str]:
    """The URL of a partitioned log, for a test that changes its schema."""
    with empty_database("partitioned", tmp_path) as url:
        yield url
