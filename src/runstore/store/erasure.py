"""Erases a person: purges their runs, and removes or renames the other data under their name.

A run leaves the same as after retention: that it existed, its times, ending and counts. With a
pseudonym, the user's and the sessions' names are replaced in it. See `docs/how-to/privacy.md`.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TypeVar
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Select, delete, func, not_, select

from runstore.core.errors import ConfigError, RunActive, RunNotFound
from runstore.core.events import AuditErased, Purged, Queued
from runstore.core.ids import READS_OF_ALL, reads_id
from runstore.core.run import Actor, owner_of
from runstore.core.times import now_ms
from runstore.database.database import Database
from runstore.database.tables import (
    api_keys,
    events,
    hierarchies,
    idempotency,
    open_runs,
    purging,
    runs,
    session_runs,
    sessions,
)
from runstore.eventlog.queries import last_position, read_first, read_head
from runstore.eventlog.sql_store import InlineProjection
from runstore.maintenance.audit import record_audit
from runstore.maintenance.patience import retry_while_transient
from runstore.maintenance.purge import PAGE_RUNS, Due, Found, Purge, PurgeCount, Reading
from runstore.projections.builds import UNPREPARED, Build, clear_retired, read_builds
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from runstore.projections.text import TextProjection, compact_words
from runstore.store.descendants import Fork, find_descendants
from runstore.store.keys import erase_keys, pseudonym_secret

PASSES = 3  # tries to erase runs that change during an erasure, such as by a deletion
SHOWN_RUNS = 10  # active runs that a refusal names
PROJECTIONS_POLL_S = 0.2  # seconds between two checks of the projections
SETTLE_S = 60.0  # seconds for projections, of this process or another, to apply the purge

T = TypeVar("T")

_e = events.c
_FIRST = (
    select(func.count())
    .select_from(events)
    .where(_e.seq == 1, _e.type == Queued.type, _e.run_id.not_in(select(purging.c.run_id)))
)
_LISTED = select(func.count()).select_from(runs).where(runs.c.purged == 0)


class ToErase(Struct, frozen=True):
    """The data to erase: a user, or one run of a user.

    `pseudonym`: also replace the names in the remaining data, including runs purged earlier.
    """

    user_id: str
    run_id: str | None = None
    pseudonym: bool = False


class Erasable(Struct, frozen=True):
    """The data that an erasure would remove. `keys`: API keys with the user's name or a label."""

    runs: int
    events: int
    keys: int = 0
    hierarchies: int = 0


class Erased(Struct, frozen=True):
    """The erased data. `remains`: why it is not all."""

    runs: int
    events: int
    keys: int = 0
    hierarchies: int = 0
    remains: str | None = None


class Erasure:
    """Erases persons from one database, while servers run.

    Args:
        projections: all that this process has code for.
        inline: those of them that are part of an append.

    Methods raise ConfigError for a run list that is not complete, LogUnavailable, or the database's error.
    """

    def __init__(
        self, database: Database, projections: Sequence[Projection], inline: Sequence[InlineProjection]
    ) -> None:
        self._database = database
        self._projections = {projection.name: projection for projection in projections}
        self._inline = inline

    def survey(self, asked: ToErase) -> Erasable:
        """Count what `purge` would erase, and change nothing.

        Raises:
            RunNotFound: the user has no such run.
            RunActive: a run has not ended.
        """
        self._read(partial(_check, asked=asked))
        with closing(Purge(self._database, self._inline)) as purge:
            found = purge.survey(_found(asked))
        keys, teams = (0, 0) if asked.run_id is not None else self._read(partial(_count, asked=asked))
        return Erasable(found.runs, found.events, keys, teams)

    def forks(self, asked: ToErase) -> list[Fork]:
        """The forks of the runs that `purge` would erase, or has erased. They hold copies of text, and stay.

        They are other users', or, if one run is to be erased, the user's own other runs.
        """
        run_id = asked.run_id  # whose user may have got a pseudonym
        of = runs.c.user_id == asked.user_id if run_id is None else runs.c.run_id == run_id
        return self._read(partial(find_descendants, of=of))

    def purge(
        self,
        asked: ToErase,
        *,
        by: Actor,
        reason: str,
        progress: Callable[[PurgeCount], None] = lambda count: None,
    ) -> Erased:
        """Erase from the log and its control tables; projections follow as they apply `run.purged`.

        It records first who asked and why. After an interruption, call it again.

        Raises:
            RunNotFound: see `survey`.
            RunActive: see `survey`.
        """
        found = self.survey(asked)
        names = self._names(asked)
        self._record(asked, found, names, by, reason)
        with closing(Purge(self._database, self._inline, progress)) as purge:
            for _ in range(PASSES):
                done = purge.run(
                    _found(asked),
                    by=by.user_id,
                    change=names.change,
                    before=lambda page: self._change(partial(_forget_runs, asked.user_id, page)),
                    drops=False,
                )
                left = purge.survey(_found(asked)).runs
                if not left:
                    break
        if left:
            changed = f"{left:,} runs of {asked.user_id!r} changed during the erasure: erase again"
            return Erased(done.runs, done.events, remains=changed)
        if asked.run_id is not None:
            return Erased(done.runs, done.events)
        keys, teams = self._change(partial(_forget_user, asked.user_id, names.user))
        return Erased(done.runs, done.events, keys, teams, self._read(partial(_active, asked=asked)))

    def purge_run(self, run_id: str, *, by: Actor, reason: str, pseudonym: bool = False) -> list[Fork]:
        """Erase one run of any user, and return its forks: see `forks`.

        Raises:
            RunNotFound: see `survey`.
            RunActive: see `survey`; or the run changed during the erasure: erase it again.
        """
        first = self._read(partial(read_first, run_id=run_id))
        if first is None:
            raise RunNotFound(f"there is no run {run_id}")
        asked = ToErase(owner_of(first).user_id, run_id, pseudonym)
        erased = self.purge(asked, by=by, reason=reason)
        if erased.remains is not None:
            raise RunActive(erased.remains)
        return self.forks(asked)

    def settle(self, *, wait_s: float = SETTLE_S) -> list[str]:
        """Apply the purges to the projections, and clean what deleted rows leave behind in the database.

        Returns:
            what still holds purged data after `wait_s`, each with a remedy.
        """
        upto = self._read(last_position)
        ProjectionRunner(self._database, self._projections.values()).run(once=True)
        deadline = time.monotonic() + wait_s
        while behind := self._behind(upto):
            if time.monotonic() > deadline or all(_is_stopped(build) for build in behind):
                break
            time.sleep(PROJECTIONS_POLL_S)
        text = self._projections.get(TextProjection.name)
        if text is not None:
            compact_words(self._database, text)
        left = [_remedy(build) for build in behind]
        scrubbed = retry_while_transient(self._database, lambda: self._database.dialect.scrub())
        return left if scrubbed is None else [*left, scrubbed]

    def _behind(self, upto: int) -> list[Build]:
        """The builds that may hold purged data. Replaced tables, which get no events, are dropped."""
        behind: list[Build] = []
        for build in self._read(read_builds):
            projection = self._projections.get(build.name)
            if build.state == "retired" and projection is not None:
                clear_retired(self._database, projection, build, uuid4().hex)
            elif not (build.live and build.inline) and build.position < upto and build.version != UNPREPARED:
                behind.append(build)
        return behind

    def _names(self, asked: ToErase) -> "_Names":
        if not asked.pseudonym:
            return _Names(asked.user_id, None)
        return _Names(asked.user_id, self._database.write(pseudonym_secret, exclusive=True))

    def _record(self, asked: ToErase, found: Erasable, names: "_Names", by: Actor, reason: str) -> None:
        event = AuditErased(
            by=by.user_id, key_id=by.key_id, reason=reason, user_id=names.user or asked.user_id,
            run_id=asked.run_id, runs=found.runs, events=found.events, pseudonym=asked.pseudonym,
        )  # fmt: skip
        stream_id = READS_OF_ALL if asked.run_id is None else reads_id(asked.run_id)
        record_audit(self._database, event, stream_id=stream_id)

    def _read(self, function: Callable[[Connection], T]) -> T:
        return retry_while_transient(self._database, lambda: self._database.read(function))

    def _change(self, function: Callable[[Connection], T]) -> T:
        return retry_while_transient(self._database, lambda: self._database.write(function))


class _Names:
    """Replaces a user's names by pseudonyms: the same for the same name in each erasure.

    `user`: the user's pseudonym; None if names stay.
    """

    def __init__(self, user_id: str, secret: bytes | None) -> None:
        self._user_id = user_id
        self._secret = secret
        self.user = self._pseudonym("user") if secret is not None else None

    def change(self, summary: Purged) -> Purged:
        """The event that is left of a run."""
        if self.user is None:
            return summary
        session_id = summary.session_id
        return replace(
            summary,
            user_id=self.user,
            session_id=None if session_id is None else self._pseudonym("session", session_id),
            stopped_by=self.user if summary.stopped_by == self._user_id else summary.stopped_by,
        )

    def _pseudonym(self, *of: str) -> str:
        name = "\0".join([*of, self._user_id]).encode()
        return f"erased-{hmac.digest(self._secret or b'', name, hashlib.sha256)[:8].hex()}"


def _check(connection: Connection, asked: ToErase) -> None:
    listed = select(runs.c.run_id).where(runs.c.user_id == asked.user_id)
    if asked.run_id is not None:
        if connection.execute(listed.where(runs.c.run_id == asked.run_id)).first() is None:
            raise RunNotFound(f"user {asked.user_id!r} has no run {asked.run_id}")
    else:
        first, rows = connection.execute(select(_FIRST.scalar_subquery(), _LISTED.scalar_subquery())).one()
        if first != rows:
            raise ConfigError(
                f"the run list has {rows:,} runs, and the log {first:,}: runstore projections rebuild runs, "
                "then erase again"
            )
    if (active := _active(connection, asked)) is not None:
        raise RunActive(active)


def _active(connection: Connection, asked: ToErase) -> str | None:
    """Which runs have not ended, for people; None if all have."""
    active = select(open_runs.c.run_id).where(open_runs.c.user_id == asked.user_id)
    if asked.run_id is not None:
        active = active.where(open_runs.c.run_id == asked.run_id)
    found = connection.execute(active.order_by(open_runs.c.run_id).limit(SHOWN_RUNS + 1)).scalars().all()
    if not found:
        return None
    more = ", …" if len(found) > SHOWN_RUNS else ""
    return (
        f"runs of {asked.user_id!r} have not ended: stop them, then erase: "
        f"{', '.join(found[:SHOWN_RUNS])}{more}"
    )


def _found(asked: ToErase) -> Found:
    """Finds the runs to erase. Runs that were purged before need a change only for a pseudonym."""
    query = select(runs.c.run_id).where(runs.c.user_id == asked.user_id)
    if asked.run_id is not None:
        query = query.where(runs.c.run_id == asked.run_id)
    if not asked.pseudonym:
        query = query.where(runs.c.purged == 0)
    query = query.order_by(runs.c.run_id).limit(PAGE_RUNS)

    def find(read: Reading) -> Iterator[list[Due]]:
        after = ""
        while run_ids := read(partial(_ids, query=query, after=after)):
            after = run_ids[-1]
            yield read(partial(_heads, run_ids=run_ids))

    return find


def _ids(connection: Connection, query: Select[str], after: str) -> Sequence[str]:
    return connection.execute(query.where(runs.c.run_id > after)).scalars().all()


def _heads(connection: Connection, run_ids: Sequence[str]) -> list[Due]:
    """The runs, of these, that have ended."""
    heads = [(run_id, read_head(connection, run_id)) for run_id in run_ids]
    return [Due(run_id, head.seq) for run_id, head in heads if head is not None and head.closed]


def _count(connection: Connection, asked: ToErase) -> tuple[int, int]:
    """The user's keys that would change, and hierarchies."""
    k = api_keys.c
    keys = select(func.count()).select_from(api_keys).where(k.user_id == asked.user_id)
    if not asked.pseudonym:
        keys = keys.where(not_(k.name == ""))
    teams = select(func.count()).select_from(hierarchies).where(hierarchies.c.user_id == asked.user_id)
    return connection.execute(keys).scalar_one(), connection.execute(teams).scalar_one()


def _forget_runs(user_id: str, page: Sequence[Due], connection: Connection) -> None:
    """Remove the rows of the control tables that lead to these runs."""
    run_ids = [due.run_id for due in page]
    for table in (session_runs, sessions, idempotency):
        of_them = (table.c.user_id == user_id, table.c.run_id.in_(run_ids))
        connection.execute(delete(table).where(*of_them))


def _forget_user(user_id: str, pseudonym: str | None, connection: Connection) -> tuple[int, int]:
    """Remove what a user has stored besides runs; return the number of keys and hierarchies."""
    keys = erase_keys(connection, user_id, pseudonym, now_ms())
    teams = connection.execute(delete(hierarchies).where(hierarchies.c.user_id == user_id)).rowcount
    return keys, teams


def _is_stopped(build: Build) -> bool:
    """Whether a build takes no events until someone acts."""
    return build.state in ("paused", "failed", "retired")


def _remedy(build: Build) -> str:
    what = f"projection {build.name!r} still holds purged text: it is "
    match build.state:
        case "paused" | "failed":
            return f"{what}{build.state}; runstore projections resume {build.name}"
        case "checking":
            return f"{what}being verified; runstore projections verify {build.name}"
        case "retired":
            return f"{what}of a package that is missing here; runstore projections drop {build.name}"
        case _:
            return f"{what}behind; run a server, or runstore projections run"
