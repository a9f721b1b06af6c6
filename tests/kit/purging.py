"""Old runs, and their purge."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import make_url

from runstore.core.codec import encode
from runstore.core.events import Custom, Event, Purged, Queued
from runstore.core.ids import first_run_id
from runstore.core.ports import EventLog
from runstore.core.run import Actor
from runstore.database.database import Database
from runstore.database.dialects import open_dialect
from runstore.maintenance.purge import Due, Found, Purge, Purgeable, PurgeCount, Reading, ended_before
from runstore.projections.registry import shipped
from runstore.store.erasure import Erasure, ToErase
from tests.kit.database import run_list
from tests.kit.events import COMPLETED, started, token

DAY_MS = 86_400_000
OLD = 1_700_000_000_000  # when old runs were made: in November 2023
FOREVER = 1 << 47  # so late that every run has ended before
_numbers = count(1)
LATER = OLD + 1_000 * DAY_MS  # and before when they have ended


def old_run_id(at: int = OLD) -> str:
    """The id of a run that was made then; each is greater than the one before it."""
    return str(UUID(int=UUID(first_run_id(at)).int + next(_numbers)))


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
    made = [encode(event, at=at) for event in (first, started(), token(), *events)]
    ended = [encode(event, at=at + number) for number, event in enumerate(ending, 1)]
    await log.append(run_id, [*made, *ended[:1]])  # at once, or a worker would take the run over in between
    for event in ended[1:]:
        await log.append(run_id, [event])
    return run_id


def purge(
    url: str,
    *,
    before: int = LATER,
    progress: Callable[[PurgeCount], None] = lambda done: None,
    change: Callable[[Purged], Purged] = lambda summary: summary,
) -> PurgeCount:
    """The same as `runstore retention`."""
    with _opened(url, progress) as purge:
        return purge.run(ended_before(before), by="retention", change=change)


def act_once_found(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act between the next purge's search for runs and their purge."""
    run, acts = Purge.run, [act]

    def run_later(self: Purge, found: Found, **options: Any) -> PurgeCount:
        def find(read: Reading) -> Iterator[list[Due]]:
            for page in found(read):
                if acts:
                    acts.pop()()
                yield page

        return run(self, find, **options)

    monkeypatch.setattr(Purge, "run", run_later)


def purge_run(url: str, run_id: str) -> None:
    """Purge one ended run of any age."""

    def find(read: Reading) -> Iterator[list[Due]]:
        for page in ended_before(FOREVER)(read):
            yield [due for due in page if due.run_id == run_id]

    with _opened(url) as purge:
        purge.run(find, by="retention")


def erase(url: str, user: str) -> None:
    """The same as `runstore erase --pseudonym`, which is a process of its own."""
    with closing(open_dialect(make_url(url), statement_timeout=False)) as dialect:
        erasure = Erasure(Database(dialect), shipped(), [run_list()])
        erasure.purge(ToErase(user, pseudonym=True), by=Actor("root", None), reason="asked")


def survey(url: str, *, before: int = LATER) -> Purgeable:
    """The same as `runstore retention --dry-run`."""
    with _opened(url) as purge:
        return purge.survey(ended_before(before))


@contextmanager
def _opened(url: str, progress: Callable[[PurgeCount], None] = lambda done: None) -> Iterator[Purge]:
    with (
        closing(open_dialect(make_url(url), statement_timeout=False)) as dialect,
        closing(Purge(Database(dialect), [run_list()], progress)) as purge,
    ):
        yield purge
