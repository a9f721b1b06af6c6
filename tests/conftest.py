"""Fixtures of all rooms: an empty log of each kind, its feed, the event loop."""

import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from runstore.core.ports import EventLog, LiveFeed
from runstore.database.database import Database
from runstore.database.dialects import Dialect
from runstore.database.opening import opened_database
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.logs import log_as_library
from tests.contracts.empty_log import empty_log
from tests.kit import warden
from tests.kit.alone import Turns, is_alone
from tests.kit.database import make_database, open_log_at, open_sqlite_log
from tests.kit.events import take_unexpected
from tests.kit.forking import close_template
from tests.kit.slow import mostly_slow
from tests.servers.absent import absent
from tests.servers.databases import DATABASES, close_shared, kept_database
from tests.servers.redis import OwnRedis
from tests.servers.redis_cluster import OwnRedisCluster

NEW_OBJECTS = 10_000  # between two collections of garbage; Python's 700 took a sixth of all tests' time
TURNS = pytest.StashKey[Turns]()

settings.register_profile("runstore", deadline=None, max_examples=50)  # a busy machine is no failure
settings.load_profile("runstore")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: some tests wait. With more of them, processes under test starve."""
    return (os.cpu_count() or 1) + 1


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Its cases are made at collection, which takes seconds in each process, also where none of them runs."""
    unasked = config.option.markexpr == "not slow" and collection_path.name == "test_conformance.py"
    return unasked or None


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background command ignores Ctrl-C, and passes that on to all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[TURNS] = Turns(config.rootpath)
    log_as_library()  # structlog's own way of showing a traceback takes a second on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=is_alone)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Outside of the time that a test may take before it counts as hung."""
    with item.config.stash[TURNS].turn(alone=is_alone(item)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Thousands of tests and their modules are no garbage: do not search them for it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS)
        gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line comes after the one that counts the tests, so that it is not overlooked."""
    config.stash[TURNS].close()
    reporter = config.pluginmanager.get_plugin("terminalreporter")  # which xdist's processes do not have
    skipped = reporter.stats.get("skipped", ()) if reporter else ()
    if line := absent(str(report.longrepr) for report in skipped):
        reporter.write_line(line)


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Log nothing: pytest keeps log records, and so the frames of their tracebacks and what these hold."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _warden() -> Iterator[None]:
    """Processes that the tests have started end with this process, also when a test hangs."""
    with warden.watched():
        yield


@pytest.fixture(scope="session", autouse=True)
def _shared_servers(_warden: None) -> Iterator[None]:
    """The databases of this test run go with it, and the process that servers are forked from."""
    yield
    close_template()
    close_shared()


@pytest.fixture(autouse=True)
def _no_unexpected_refusals() -> Iterator[None]:
    """An event that a test offered and the log refused fails that test."""
    yield
    assert take_unexpected() == []


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def feed() -> MemoryFeed:
    return MemoryFeed()


@pytest.fixture(params=mostly_slow(("memory", *DATABASES), "memory", "sqlite", "postgresql"))
async def log(request: pytest.FixtureRequest, tmp_path: Path, feed: MemoryFeed) -> AsyncIterator[EventLog]:
    """An empty log that publishes to `feed`; once of each kind."""
    async with empty_log(request.param, tmp_path, feed) as log:
        yield log


@pytest.fixture(params=mostly_slow(DATABASES, "sqlite", "postgresql"))
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database with this release's schema; once of each kind."""
    with kept_database(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def opened(database_url: str) -> Iterator[Database]:
    """`database_url`, as a command opens it beside a server."""
    with opened_database(database_url) as database:
        yield database


@pytest.fixture
def dialect(opened: Database) -> Dialect:
    return opened.dialect


@pytest.fixture
async def open_shared(database_url: str) -> AsyncIterator[Callable[..., SqlEventLog]]:
    """`open_shared(feed)` opens `database_url`; each call stands for another process on that database."""
    async with AsyncExitStack() as stack:

        def open_one_more(feed: LiveFeed | None = None) -> SqlEventLog:
            log = open_log_at(database_url, feed or MemoryFeed())
            stack.push_async_callback(log.close)
            return log

        yield open_one_more


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An empty SQLite file with this release's schema."""
    return make_database(tmp_path / "runstore.db")


@pytest.fixture
async def open_log(database: Path) -> AsyncIterator[Callable[..., SqlEventLog]]:
    """`open_log(feed, projections=…)` opens `database`; each call stands for another process on that file."""
    async with AsyncExitStack() as stack:

        def open_one_more(feed: LiveFeed | None = None, **options: Any) -> SqlEventLog:
            log = open_sqlite_log(database, feed or MemoryFeed(), **options)
            stack.push_async_callback(log.close)
            return log

        yield open_one_more


@pytest.fixture(scope="session")
def valkey() -> Iterator[OwnRedis]:
    """For tests that use keys with a prefix of their own."""
    with OwnRedis("valkey") as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[OwnRedisCluster]:
    """For tests that stop none of its nodes."""
    with OwnRedisCluster() as cluster:
        yield cluster
