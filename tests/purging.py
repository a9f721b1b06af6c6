"""Old runs, and their purge."""

import os
from collections.abc import Callable, Sequence
from uuid import UUID

from sqlalchemy import make_url

from runstore.core.codec import encode
from runstore.core.events import Custom, Event, Queued
from runstore.core.ids import first_run_id
from runstore.core.ports import EventLog
from runstore.eventlog.dialects import open_dialect
from runstore.eventlog.purge import Purge, PurgeCount
from tests.database import run_list
from tests.events import COMPLETED, started, token

DAY_MS = 86_400_000
OLD = 1_700_000_000_000  # when old runs were made: in November 2023
LATER = OLD + 1_000 * DAY_MS  # and before when they have ended


def old_run_id(at: int = OLD) -> str:
    """The id of a run that was made then."""
    return str(UUID(int=UUID(first_run_id(at)).int + int.from_bytes(os.urandom(8))))


async def write_old(
    log: EventLog,
    *events: Event | Custom,
    at: int = OLD,
    queued: Queued | None = None,
    ending: Sequence[Event] = (COMPLETED,),
) -> str:
    """A run that was made, and ended, some years ago."""
    run_id = old_run_id(at)
    first = queued or Queued(agent="demo", user_id="ann", session_id="s-1", input="hi")
    await log.append(run_id, [encode(event, at=at) for event in (first, started(), token(), *events)])
    for number, event in enumerate(ending, 1):
        await log.append(run_id, [encode(event, at=at + number)])
    return run_id


def make_purge(
    url: str, *, before: int = LATER, progress: Callable[[PurgeCount], None] = lambda done: None
) -> Purge:
    return Purge(open_dialect(make_url(url), hurried=False), [run_list()], before, progress)


def purge(
    url: str, *, before: int = LATER, progress: Callable[[PurgeCount], None] = lambda done: None
) -> PurgeCount:
    """What `runstore retention` does."""
    purge = make_purge(url, before=before, progress=progress)
    try:
        return purge.run(by="retention")
    finally:
        purge.close()
