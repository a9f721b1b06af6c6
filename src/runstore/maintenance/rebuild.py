"""Rebuilds projections from the log while the system runs, or verifies them against the log.

The other slot is filled beside the live one, in short transactions, and survives interruptions: the next
rebuild, or a runner, continues it. See `projections/filling.py`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid4

from msgspec import Struct

from runstore.core.errors import ConfigError, ProjectionFailed
from runstore.database.database import Database
from runstore.eventlog.queries import last_position
from runstore.maintenance.patience import retry_while_transient
from runstore.projections.builds import (
    Build,
    BuildState,
    builds_of,
    live_build,
    other_slot,
    prepare,
    release,
)
from runstore.projections.comparison import TableDifference
from runstore.projections.filling import Filled, Filling
from runstore.projections.projection import Projection, Slot
from runstore.projections.runner import LEASE_S, POLL_S, TURN_S
from runstore.projections.silences import Silences

WATCH_S = 0.1  # seconds between two checks of another process's rebuild
MEET_WITHIN = 100_000  # positions that a rebuild may be ahead while it waits for the others: about a second

Progress = Callable[[int, int], None]  # position reached, position to reach
ProgressOfEach = Callable[[str, int, int], None]  # the projection's name, and the same


class ProjectionReport(Struct, frozen=True):
    """The result of a rebuild or a verification.

    `tables`: how each live table differed from the log; None without live tables of this version.
    `position`: of the log, up to which events were applied.
    """

    projection: str
    tables: dict[str, TableDifference] | None
    position: int
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether the live tables were as the log says."""
        return self.tables is not None and all(difference.equal for difference in self.tables.values())


def rebuild(
    database: Database, projection: Projection, progress: Progress = lambda reached, goal: None
) -> ProjectionReport:
    """See `rebuild_all`."""
    (report,) = rebuild_all(database, [projection], lambda _name, reached, goal: progress(reached, goal))
    return report


def verify(
    database: Database, projection: Projection, progress: Progress = lambda reached, goal: None
) -> ProjectionReport:
    """See `verify_all`."""
    (report,) = verify_all(database, [projection], lambda _name, reached, goal: progress(reached, goal))
    return report


def rebuild_all(
    database: Database,
    projections: Sequence[Projection],
    progress: ProgressOfEach = lambda name, reached, goal: None,
) -> list[ProjectionReport]:
    """Fold the whole log again, compare, and put the results in place of the live tables.

    The log is read once for all projections. The live tables serve and are kept up to date until then. If
    another process rebuilds one of them, wait for it.

    Returns:
        The reports, in the order of the projections' names.

    Raises:
        ConfigError: the database has a newer version of a projection, or its rebuild is paused.
        ProjectionFailed: one refused an event; the live tables of those that are not done are as they were.
            The next rebuild of the others, or a runner, continues.
    """
    return _Rebuilds(database, projections, progress, replace=True).run()


def verify_all(
    database: Database,
    projections: Sequence[Projection],
    progress: ProgressOfEach = lambda name, reached, goal: None,
) -> list[ProjectionReport]:
    """Fold the whole log again beside the live tables, and compare. Nothing that is read changes.

    If another process rebuilds one of them, wait for it.

    Returns:
        The reports, in the order of the projections' names.

    Raises:
        ConfigError: there are no live tables of this version, or a rebuild was interrupted.
        ProjectionFailed: one refused an event.
    """
    return _Rebuilds(database, projections, progress, replace=False).run()


class _Rebuilds:
    """Drives several rebuilds in one thread, so that one transaction applies one read to all of them."""

    def __init__(
        self,
        database: Database,
        projections: Sequence[Projection],
        progress: ProgressOfEach,
        *,
        replace: bool,
    ) -> None:
        self._database = database
        # In the order of names, as another process locks them.
        self._all = [
            _Rebuild(database, each, progress, replace=replace)
            for each in sorted(projections, key=lambda each: each.name)
        ]

    def run(self) -> list[ProjectionReport]:
        """The reports, in the order of names."""
        try:
            while left := [each for each in self._all if each.report is None]:
                found = {each: filling for each in left if (filling := each.find()) is not None}
                self._step(found)
                alone = all(filling.alone for filling in found.values())
                time.sleep(WATCH_S if not found else 0 if alone else TURN_S)
            return [each.report for each in self._all if each.report is not None]
        finally:
            for each in self._all:
                each.release()

    def _step(self, found: Mapping["_Rebuild", Filling]) -> None:
        """Make a transaction for each, or one for those that are at the same position.

        One that is a little ahead waits for those.
        """
        far = {each: filling for each, filling in found.items() if filling.is_far}
        lowest = min((filling.position for filling in far.values()), default=0)
        behind = [each for each, filling in far.items() if filling.position == lowest]
        near = [each for each, filling in far.items() if 0 < filling.position - lowest <= MEET_WITHIN]
        upto = min([*(far[each].goal for each in behind), *(far[each].position for each in near)], default=0)
        fill = partial(Filling.step_together, [far[each] for each in behind], upto)
        together = len(behind) > 1 and retry_while_transient(self._database, fill)
        for each, filling in found.items():
            if each in near or (each in behind and together):
                each.show(filling)
            else:
                each.step(filling, upto if each in behind else None)


class _Rebuild:
    """One of them. `report`: once it is done."""

    def __init__(
        self, database: Database, projection: Projection, progress: ProgressOfEach, *, replace: bool
    ) -> None:
        self.report: ProjectionReport | None = None
        self._database = database
        self._projection = projection
        self._progress = progress
        self._replace = replace
        self._owner = uuid4().hex
        self._silences = Silences(LEASE_S, longest_look_s=2 * POLL_S)
        self._started = time.monotonic()
        self._filling: Filling | None = None

    def find(self) -> Filling | None:
        """The build to fill, and the position that it has to reach; None while another process fills it."""
        if self._filling is None:
            self._filling = retry_while_transient(self._database, self._find)
        if self._filling is not None:
            retry_while_transient(self._database, self._filling.look)
        return self._filling

    def show(self, filling: Filling) -> None:
        """Report the progress."""
        self._progress(self._projection.name, filling.position, filling.goal)

    def step(self, filling: Filling, upto: int | None = None) -> None:
        """See `Filling.step`. Raises ProjectionFailed."""
        filled = retry_while_transient(self._database, partial(filling.step, upto))
        self.show(filling)
        if filled is Filled.FAILED:
            raise ProjectionFailed(
                retry_while_transient(self._database, partial(self._failure, filling.build))
            )
        if filled is Filled.CHANGED:  # another process changed the builds
            self._filling = None
        elif filled is Filled.DONE:
            found, seconds = filling.differences(), time.monotonic() - self._started
            self.report = ProjectionReport(self._projection.name, found, filling.position, seconds)

    def release(self) -> None:
        """Let other processes continue the build at once; otherwise the lease runs out."""
        with suppress(Exception), self._database.changing() as connection:
            release(connection, self._owner)

    def _find(self) -> Filling | None:
        """The build to fill: an interrupted one, or a new one. None while another process fills it."""
        name, version = self._projection.name, self._projection.version
        with self._database.connect() as connection:
            builds = builds_of(connection, name)
            last = last_position(connection)
        self._check(builds)
        self._silences.look(builds.values(), last)
        slot = self._slot(builds)
        build = builds.get(slot)
        if build is not None and build.version == version and build.state == "paused":
            raise ConfigError(
                f"projection {name!r}: its rebuild is paused: runstore projections resume {name}"
            )
        if build is not None and not self._silences.may_take(build, self._owner):
            self._progress(name, build.position, max(last, build.position))
            return None
        if build is not None and not self._replace and build.state not in ("checking", "retired"):
            raise ConfigError(
                f"projection {name!r}: an unfinished rebuild, at position {build.position:,}, has the tables "
                f"that verify needs: finish it with runstore projections rebuild {name}"
            )
        if build is None or not self._can_be_continued(build):
            state: BuildState = "running" if self._replace else "checking"
            prepare(self._database, self._projection, slot, seen=build, owner=self._owner, state=state)
            return self._find()
        return Filling(self._database, self._projection, build, self._owner, replace=self._replace)

    def _check(self, builds: Mapping[Slot, Build]) -> None:
        name, version = self._projection.name, self._projection.version
        newest = max((build.version for build in builds.values()), default=0)
        if newest > version:
            raise ConfigError(
                f"projection {name!r}: the database has version {newest}, this code version {version}: "
                "a version never goes back; upgrade the package that has the projection"
            )
        live = live_build(builds)
        if self._replace or self._projection.in_schema:
            return
        if live is None:
            raise ConfigError(
                f"projection {name!r}: it is not built yet; runstore projections rebuild {name}"
            )
        if live.version != version:
            raise ConfigError(
                f"projection {name!r}: its tables are of version {live.version}, and this code is version "
                f"{version}; runstore projections rebuild {name}"
            )

    def _slot(self, builds: Mapping[Slot, Build]) -> Slot:
        if self._projection.in_schema:
            return "b"
        live = live_build(builds)
        return "a" if live is None else other_slot(live.slot)

    def _can_be_continued(self, build: Build) -> bool:
        made_of = (self._projection.version, self._projection.fingerprint)
        state = "running" if self._replace else "checking"
        return (build.version, build.fingerprint) == made_of and build.state == state

    def _failure(self, build: Build) -> str:
        name = self._projection.name
        with self._database.connect() as connection:
            failed = builds_of(connection, name).get(build.slot)
        if failed is None or (found := failed.error) is None:
            return f"projection {name!r}: it refused an event"
        where = f"event {found.seq} of run {found.run_id} ({found.type})"
        return (
            f"projection {name!r}: {where}: {found.error}; {found.remedy}. The live tables are as they were"
        )
