"""The commands on projections: list, rebuild, verify, pause, resume, skip, drop, run."""

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Table

from runstore.core.errors import ConfigError
from runstore.core.events import AuditProjection
from runstore.database.database import Database
from runstore.eventlog.queries import last_position
from runstore.maintenance.audit import record_audit
from runstore.maintenance.projection_status import ProjectionStatus, read_status
from runstore.maintenance.rebuild import (
    Progress,
    ProgressOfEach,
    ProjectionReport,
    rebuild,
    rebuild_all,
    verify,
    verify_all,
)
from runstore.projections.builds import (
    UNPREPARED,
    ProjectionFault,
    faults,
    forget,
    pause,
    prepare,
    read_builds,
    resume,
    skip,
)
from runstore.projections.live import live_tables, reading_live
from runstore.projections.projection import Projection
from runstore.projections.runner import ProjectionRunner
from runstore.threads import in_own_thread

T = TypeVar("T")

LOCAL_USER = "local"

SETTLE_S = 60.0  # seconds to wait for other runners
RUNNERS_POLL_S = 0.05  # seconds between two checks of them

log = structlog.get_logger(__name__)


class Projections:
    """The projections of an open database. Methods that name one raise ConfigError if it is unknown.

    Those that pause, resume, skip or drop record it as an event `audit.projection`; `by`: who asks.

    They may be used while servers run, and raise LogUnavailable while the database cannot be used.
    """

    def __init__(self, database: Database, known: Sequence[Projection]) -> None:
        self._database = database
        self._known = {projection.name: projection for projection in known}

    @property
    def names(self) -> list[str]:
        """The projections that this process has code for."""
        return sorted(self._known)

    def check(self, names: Sequence[str]) -> None:
        """Raise ConfigError unless this process has code for all of these."""
        for name in names:
            self._find(name)

    def serves_lists(self, name: str) -> bool:
        """Whether users' lists of runs are read from this projection."""
        return name in self._known and self._known[name].in_schema

    def built(self) -> list[str]:
        """The projections of this process whose live tables can be compared with the log."""
        return [each.name for each in self.status() if each.state in ("running", "paused", "failed")]

    def status(self) -> list[ProjectionStatus]:
        """All projections, also those that only the database knows."""
        return self._database.read(partial(read_status, known=self._known))

    def rebuild(self, name: str, progress: Progress = lambda reached, goal: None) -> ProjectionReport:
        """Fold the whole log again, and put the result in place of the live tables.

        They serve and are kept up to date until then. An interrupted rebuild is continued. If another process
        rebuilds the projection, wait for it.

        Raises:
            ConfigError: the database has a newer version of the projection, or its rebuild is paused.
            ProjectionFailed: it refused an event; the live tables are as they were.
        """
        return rebuild(self._database, self._find(name), progress)

    def rebuild_all(
        self, names: Sequence[str], progress: ProgressOfEach = lambda name, reached, goal: None
    ) -> list[ProjectionReport]:
        """Rebuild several projections, reading the log once for all of them. Raises as `rebuild` does.

        Returns:
            The reports, in the order of the names in the alphabet.
        """
        return rebuild_all(self._database, [self._find(name) for name in dict.fromkeys(names)], progress)

    def verify(self, name: str, progress: Progress = lambda reached, goal: None) -> ProjectionReport:
        """Fold the whole log again beside the live tables, and compare. Nothing that is read changes.

        Raises:
            ConfigError: there are no live tables of this version, or a rebuild was interrupted.
            ProjectionFailed: it refused an event.
        """
        return verify(self._database, self._find(name), progress)

    def verify_all(
        self, names: Sequence[str], progress: ProgressOfEach = lambda name, reached, goal: None
    ) -> list[ProjectionReport]:
        """Verify several projections, reading the log once for all of them. Raises as `verify` does.

        Returns:
            The reports, in the order of the names in the alphabet.
        """
        return verify_all(self._database, [self._find(name) for name in dict.fromkeys(names)], progress)

    def pause(self, name: str, *, by: str = LOCAL_USER) -> None:
        """Let a projection take no more events until `resume`. Raises ConfigError if it is not running."""
        recorded = AuditProjection(by=by, command="pause", projection=name)
        self._record(name, pause, recorded)
        log.info("projection_paused", projection=name)

    def resume(self, name: str, *, by: str = LOCAL_USER) -> None:
        """Let a paused or failed projection take events again. Raises ConfigError if it is neither."""
        recorded = AuditProjection(by=by, command="resume", projection=name)
        self._record(name, resume, recorded)
        log.info("projection_resumed", projection=name)

    def skip(self, name: str, *, by: str = LOCAL_USER) -> list[ProjectionFault]:
        """Leave out the event at which a projection failed, and return it.

        Raises:
            ConfigError: it did not fail at an event.
        """
        failed = self._database.write(
            lambda connection: faults(connection, self._check_apart(connection, name))
        )

        def skip_these(connection: Connection, name: str) -> None:
            if skip(connection, name) != failed:
                raise ConfigError(f"projection {name!r}: it has failed at another event since; skip again")

        recorded = [
            AuditProjection(by=by, command="skip", projection=name, run_id=event.run_id, seq=event.seq)
            for event in failed
        ]
        self._record(name, skip_these, *recorded)
        for event in failed:
            log.warning("projection_skipped", projection=name, run_id=event.run_id, seq=event.seq)
        return failed

    def _record(
        self, name: str, command: Callable[[Connection, str], None], *recorded: AuditProjection
    ) -> None:
        """Apply a command and record it, in one transaction."""

        def change(connection: Connection) -> None:
            command(connection, self._check_apart(connection, name))

        record_audit(self._database, *recorded, change=change)

    def drop(self, name: str, *, by: str = LOCAL_USER) -> None:
        """Remove what a projection has stored. The log stays as it is.

        A projection that this process has code for is left empty and paused: `resume` lets it start over. The
        run list is left empty: each run comes back with its next change, and all with `rebuild`.
        """
        self._database.read(partial(self._check, name=name))
        record_audit(self._database, AuditProjection(by=by, command="drop", projection=name))
        projection = self._known.get(name)
        if projection is not None and projection.in_schema:
            self._database.write(projection.drop)
        else:
            forget(self._database, name, projection)
            if projection is not None and not projection.inline:
                prepare(self._database, projection, "a", seen=None, owner=None, live=True, state="paused")
        log.info("projection_dropped", projection=name)

    def read(self, name: str, reading: Callable[[Connection, Mapping[str, Table]], T]) -> T:
        """Call `reading` with a connection and the live tables, by the names that the projection gave them.

        It is called again if a rebuild replaces the tables during the call.

        Raises:
            ConfigError: no process has made them yet.
        """
        projection = self._find(name)

        def read(connection: Connection) -> T:
            tables = live_tables(connection, projection)
            if tables is None:
                raise ConfigError(
                    f"projection {name!r}: it is not built yet; runstore projections rebuild {name}"
                )
            return reading(connection, tables)

        return self._database.read(lambda connection: reading_live(connection, partial(read, connection)))

    def run(self, names: Sequence[str] = ()) -> None:
        """Apply the events that the log has now, to these projections or to all.

        Where another runner has a projection, wait until that one has applied them, for SETTLE_S at most.
        Raises the database's error after 30 s of failures.
        """
        upto = self._database.read(last_position)
        deadline = time.monotonic() + SETTLE_S
        self.runner(names).run(once=True)
        while self._behind(names, upto) and time.monotonic() < deadline:
            time.sleep(RUNNERS_POLL_S)
            self.runner(names).run(once=True)

    def _behind(self, names: Sequence[str], upto: int) -> bool:
        """Whether running tables of these projections, or of all, lack events up to a position."""
        builds = self._database.read(read_builds)
        wanted = {*(names or self._known)}
        return any(
            build.name in wanted and build.live and not build.inline
            and build.state == "running" and build.version != UNPREPARED and build.position < upto
            for build in builds
        )  # fmt: skip

    def runner(self, names: Sequence[str] = ()) -> ProjectionRunner:
        """A runner of these projections, or of all."""
        return ProjectionRunner(self._database, [self._find(name) for name in names or self._known])

    def _find(self, name: str) -> Projection:
        try:
            return self._known[name]
        except KeyError:
            raise self._unknown(name, self.names) from None

    def _check(self, connection: Connection, name: str) -> str:
        """The name, if this process or the database knows it."""
        names = {*self._known, *(build.name for build in read_builds(connection))}
        if name not in names:
            raise self._unknown(name, sorted(names))
        return name

    def _check_apart(self, connection: Connection, name: str) -> str:
        """The name, if it is of a projection that is not part of the appends."""
        self._check(connection, name)
        if name in self._known and self._known[name].inline:
            raise ConfigError(
                f"projection {name!r}: it is inline: every append applies it, so it never stops"
            )
        return name

    def _unknown(self, name: str, names: list[str]) -> ConfigError:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return ConfigError(f"there is no projection {name!r}{hint}; known: {', '.join(names)}")


class LocalProjections:
    """The projections of a store. The coroutines do what the methods of `Projections` do."""

    def __init__(self, projections: Projections) -> None:
        self._projections = projections

    @property
    def names(self) -> list[str]:
        """The projections that this process has code for."""
        return self._projections.names

    async def status(self) -> list[ProjectionStatus]:
        """All projections, also those that only the database knows."""
        return await in_own_thread(self._projections.status)

    async def rebuild(self, name: str, progress: Progress = lambda reached, goal: None) -> ProjectionReport:
        """See `Projections.rebuild`. `progress` is called in another thread."""
        return await in_own_thread(self._projections.rebuild, name, progress)

    async def rebuild_all(
        self, names: Sequence[str], progress: ProgressOfEach = lambda name, reached, goal: None
    ) -> list[ProjectionReport]:
        """See `Projections.rebuild_all`. `progress` is called in another thread."""
        return await in_own_thread(self._projections.rebuild_all, names, progress)

    async def verify(self, name: str, progress: Progress = lambda reached, goal: None) -> ProjectionReport:
        """See `Projections.verify`. `progress` is called in another thread."""
        return await in_own_thread(self._projections.verify, name, progress)

    async def verify_all(
        self, names: Sequence[str], progress: ProgressOfEach = lambda name, reached, goal: None
    ) -> list[ProjectionReport]:
        """See `Projections.verify_all`. `progress` is called in another thread."""
        return await in_own_thread(self._projections.verify_all, names, progress)

    async def pause(self, name: str, *, by: str = LOCAL_USER) -> None:
        """See `Projections.pause`."""
        await in_own_thread(partial(self._projections.pause, by=by), name)

    async def resume(self, name: str, *, by: str = LOCAL_USER) -> None:
        """See `Projections.resume`."""
        await in_own_thread(partial(self._projections.resume, by=by), name)

    async def skip(self, name: str, *, by: str = LOCAL_USER) -> list[ProjectionFault]:
        """See `Projections.skip`."""
        return await in_own_thread(partial(self._projections.skip, by=by), name)

    async def drop(self, name: str, *, by: str = LOCAL_USER) -> None:
        """See `Projections.drop`."""
        await in_own_thread(partial(self._projections.drop, by=by), name)

    async def read(self, name: str, reading: Callable[[Connection, Mapping[str, Table]], T]) -> T:
        """See `Projections.read`. `reading` is called in another thread."""
        return await in_own_thread(self._projections.read, name, reading)

    async def run(self, names: Sequence[str] = ()) -> None:
        """See `Projections.run`. A store that runs agents keeps projections up to date by itself."""
        await in_own_thread(self._projections.run, names)
