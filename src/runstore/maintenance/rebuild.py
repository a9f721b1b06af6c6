"""Rebuilds a projection from the log while the system runs, or verifies it against the log.

The other slot is filled beside the live one, in short transactions, and survives interruptions: the next
rebuild, or a runner, continues it. See `projections/filling.py`.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from uuid import uuid4

from msgspec import Struct

from runstore.core.errors import ConfigError, ProjectionFailed
from runstore.database.opening import Database
from runstore.eventlog.queries import last_position
from runstore.maintenance.patience import patiently
from runstore.projections.builds import (
    Build,
    BuildState,
    live_build,
    other_slot,
    prepare,
    read_builds,
    release,
)
from runstore.projections.comparison import TableDifference
from runstore.projections.filling import Filled, Filling
from runstore.projections.projection import Projection, Slot
from runstore.projections.runner import LEASE_S, POLL_S, TURN_S
from runstore.projections.silences import Silences

WATCH_S = 0.1  # seconds between two looks at another process's rebuild

Progress = Callable[[int, int], None]  # position reached, position to reach


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
    """Fold the whole log again, compare, and put the result in place of the live tables.

    The live tables serve and are kept up to date until then. If another process rebuilds the projection, wait
    for it.

    Raises:
        ConfigError: the database has a newer version of the projection, or its rebuild is paused.
        ProjectionFailed: it refused an event; the live tables are as they were.
    """
    return _Rebuild(database, projection, progress, replace=True).run()


def verify(
    database: Database, projection: Projection, progress: Progress = lambda reached, goal: None
) -> ProjectionReport:
    """Fold the whole log again beside the live tables, and compare. Nothing that is read changes.

    Raises:
        ConfigError: there are no live tables of this version.
        ProjectionFailed: it refused an event.
    """
    return _Rebuild(database, projection, progress, replace=False).run()


class _Rebuild:
    def __init__(
        self, database: Database, projection: Projection, progress: Progress, *, replace: bool
    ) -> None:
        self._database = database
        self._projection = projection
        self._progress = progress
        self._replace = replace
        self._owner = uuid4().hex
        self._silences = Silences(LEASE_S, longest_look_s=2 * POLL_S)

    def run(self) -> ProjectionReport:
        started = time.monotonic()
        try:
            while True:
                filling = patiently(self._database, self._find)
                if filling is None:
                    time.sleep(WATCH_S)
                elif self._fill(filling):
                    found, seconds = filling.differences(), time.monotonic() - started
                    return ProjectionReport(self._projection.name, found, filling.position, seconds)
        finally:
            self._release()

    def _find(self) -> Filling | None:
        """The build to fill: an interrupted one, or a new one. None while another process fills it."""
        name, version = self._projection.name, self._projection.version
        with self._database.connect() as connection:
            builds = {build.slot: build for build in read_builds(connection, name)}
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
            self._progress(build.position, max(last, build.position))
            return None
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
        states = ("running",) if self._replace else ("running", "checking")
        return (build.version, build.fingerprint) == made_of and build.state in states

    def _fill(self, filling: Filling) -> bool:
        """Drive a build to its end; False if another process has changed it."""
        while True:
            filled = patiently(self._database, filling.step)
            self._progress(filling.position, filling.goal)
            if filled is Filled.DONE:
                return True
            if filled is Filled.CHANGED:
                return False
            if filled is Filled.FAILED:
                raise ProjectionFailed(patiently(self._database, partial(self._failure, filling.build)))
            time.sleep(0 if filling.alone else TURN_S)

    def _failure(self, build: Build) -> str:
        name = self._projection.name
        with self._database.connect() as connection:
            found = {each.slot: each.error for each in read_builds(connection, name)}.get(build.slot)
        if found is None:
            return f"projection {name!r}: it refused an event"
        where = f"event {found.seq} of run {found.run_id} ({found.type})"
        return (
            f"projection {name!r}: {where}: {found.error}; {found.remedy}. The live tables are as they were"
        )

    def _release(self) -> None:
        with suppress(Exception), self._database.changing() as connection:  # otherwise the lease runs out
            release(connection, self._owner)
