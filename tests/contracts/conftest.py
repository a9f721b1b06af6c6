"""Every kind of log passes these tests, a partitioned one too: add a new one here."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runstore.core.ports import EventLog
from runstore.feed.memory import MemoryFeed
from tests.contracts.empty_log import empty_log
from tests.kit.slow import mostly_slow
from tests.servers.databases import FORMS, kept_database


@pytest.fixture(params=mostly_slow(("memory", *FORMS), "memory", "sqlite", "postgresql"))
async def log(request: pytest.FixtureRequest, tmp_path: Path, feed: MemoryFeed) -> AsyncIterator[EventLog]:
    async with empty_log(request.param, tmp_path, feed) as log:
        yield log


@pytest.fixture(params=mostly_slow(FORMS, "sqlite", "postgresql"))
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with kept_database(request.param, tmp_path) as url:
        yield url
