"""Users' inline projections: never behind an append, filled from an older log, and versioned."""

from collections.abc import Callable

import pytest

from runstore.core.errors import ConfigError, LogUnavailable
from runstore.database.database import Database
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.maintenance.rebuild import rebuild, verify
from runstore.projections.inline import InlineProjections, check_inline
from runstore.projections.live import live_tables
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from tests.kit.database import run_list
from tests.kit.events import close_run, start_run
from tests.projections.examples import InlineTotals, totals

Found = dict[str, int]
OpenLog = Callable[..., SqlEventLog]


class Newer(InlineTotals):
    version = 2


def found(opened: Database, projection: Projection) -> Found:
    with opened.connect() as connection:
        tables = live_tables(connection, projection)
        return totals(connection, tables["inline"]) if tables else {}


def log_of(opened: Database, *inline: Projection) -> SqlEventLog:
    """A log as of a process that has these projections."""
    return SqlEventLog(opened, MemoryFeed(), [run_list(), InlineProjections(inline)])


async def test_it_is_filled_from_the_log_and_then_never_behind(opened: Database) -> None:
    log = log_of(opened, InlineTotals())
    await close_run(log)
    assert found(opened, InlineTotals()) == {}
    ProjectionRunner(opened, [InlineTotals()]).run(once=True)
    assert found(opened, InlineTotals())["lifecycle.completed"] == 1
    for count in (2, 3):
        await close_run(log)
        assert found(opened, InlineTotals())["lifecycle.completed"] == count
    assert verify(opened, InlineTotals()).equal
    assert rebuild(opened, InlineTotals()).equal
    await close_run(log)
    assert found(opened, InlineTotals())["lifecycle.completed"] == 4
    await log.close()


async def test_a_process_without_it_neither_starts_nor_appends(opened: Database) -> None:
    ProjectionRunner(opened, [InlineTotals()]).run(once=True)
    with opened.connect() as connection:
        check_inline(connection, [InlineTotals()])
        with pytest.raises(ConfigError, match=r"'inline'.*does not have it.*install the package"):
            check_inline(connection, [])
    log = log_of(opened)
    with pytest.raises(LogUnavailable, match="does not have it"):
        await start_run(log)
    assert await log.read_all() == []
    await log.close()


async def test_a_newer_version_takes_over_and_older_processes_append_no_more(opened: Database) -> None:
    ProjectionRunner(opened, [InlineTotals()]).run(once=True)
    old = log_of(opened, InlineTotals())
    await close_run(old)
    new = log_of(opened, Newer())
    await close_run(new)  # it is not filled yet, and the older tables are not written by newer code
    assert (found(opened, Newer()), found(opened, InlineTotals())["lifecycle.completed"]) == ({}, 1)
    await close_run(old)
    assert found(opened, InlineTotals())["lifecycle.completed"] == 2
    ProjectionRunner(opened, [Newer()]).run(once=True)
    await close_run(new)
    assert found(opened, Newer())["lifecycle.completed"] == 4
    with pytest.raises(LogUnavailable, match=r"applies version 2.*has version 1"):
        await start_run(old)
    assert verify(opened, Newer()).equal
    await old.close()
    await new.close()
