"""Fills a projection's other slot, compares it with the live one, and puts it in its place."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum

from sqlalchemy import Connection

from runstore.database.database import Database
from runstore.eventlog.queries import last_position
from runstore.projections.advance import (
    BATCH_S,
    LAST_EVENTS,
    LONG_BATCH_S,
    Advance,
    Poison,
    StepResult,
)
from runstore.projections.builds import (
    Build,
    builds_of,
    clear,
    live_build,
    lock_builds,
    publish,
    swap,
)
from runstore.projections.comparison import Comparison, TableDifference
from runstore.projections.projection import Projection, Slot

TARGET_POLL_S = 0.2  # seconds between two reads of the position to reach while it is far away

Builds = Mapping[Slot, Build]


class Filled(Enum):
    """The outcome of a step of a filling."""

    GOING_ON = "going on"
    DONE = "done"
    FAILED = "failed"  # an event was refused, and the build has stopped at it
    CHANGED = "changed"  # another process changed the builds: read them again


class Filling:
    """Drives a build that is not live, in short transactions, until it has replaced the live one.

    Until then the live tables serve, and take events. Builds of one version are compared at one position,
    range by range. The tables of a projection in the schema are corrected row by row instead of replaced.

    Args:
        replace: False: only compare, and remove the build in the end.
    """

    def __init__(
        self, database: Database, projection: Projection, build: Build, owner: str, *, replace: bool = True
    ) -> None:
        self.goal = 0  # the position to reach, as of the last look
        self.alone = False  # nothing was appended between the last two looks
        self._database = database
        self._projection = projection
        self._replace = replace
        self._advance = Advance(database, projection, build, owner)
        self._comparison: Comparison | None = None
        self._compared = False
        self._refused = False  # an event of the last ones was refused, and has to be isolated
        self._last = -1  # the last position of the log, as of the last look
        self._looked_at = 0.0

    @property
    def position(self) -> int:
        """How far the build has come."""
        return self._advance.position

    @property
    def build(self) -> Build:
        """The build, as of the last step."""
        return self._advance.build

    def is_ours(self, row: Build) -> bool:
        """See `Advance.is_ours`."""
        return self._advance.is_ours(row)

    def differences(self) -> dict[str, TableDifference] | None:
        """The result of the comparison, by table; None without live tables of this version."""
        return None if self._comparison is None else self._comparison.differences()

    @property
    def is_far(self) -> bool:
        """Whether more than the last events are left to apply, as of the last look.

        Writers, or the live build, move on between two steps. So the last events are left to the end.
        """
        return self.goal - self.position > LAST_EVENTS

    def look(self) -> None:
        """Find the position to reach, unless that was done just before. Raises the database's errors."""
        if self.is_far and time.monotonic() - self._looked_at < TARGET_POLL_S:
            return
        self.goal = max(self._find_goal(), self.position)
        self._looked_at = time.monotonic()

    def step(self, upto: int | None = None) -> Filled:
        """Make one transaction. Raises the database's errors; a later call then continues.

        Args:
            upto: the position where a batch has to end; None: where the last look found the goal.
        """
        if not self.is_far and not self._refused:
            return self._finish()
        step = self._advance.step(self.goal if upto is None else min(upto, self.goal))
        if step is StepResult.AT_END:
            return self._finish()
        if step is StepResult.MOVED:
            return Filled.GOING_ON
        return Filled.FAILED if step is StepResult.FAILED else Filled.CHANGED

    @staticmethod
    def step_together(fillings: Sequence["Filling"], upto: int) -> bool:
        """See `Advance.step_together`."""
        return Advance.step_together([filling._advance for filling in fillings], upto)

    def _find_goal(self) -> int:
        with self._database.connect() as connection:
            builds = builds_of(connection, self._projection.name)
            last = last_position(connection)
        self.alone, self._last = last == self._last, last
        self._advance.batch_s = LONG_BATCH_S if self.alone else BATCH_S
        if not self._compared and (live := self._comparable(builds)) is not None:
            return live.position
        mark = self._database.dialect.high_water_mark(self.position)
        return last if mark is None else mark

    def _comparable(self, builds: Builds) -> Build | None:
        """The live build, if its position decides where both can be compared."""
        live = live_build(builds)
        if live is None or self._projection.inline or live.version != self._projection.version:
            return None
        return live

    def _finish(self) -> Filled:
        """Apply the last events while nothing else changes the tables; then compare a range, or replace."""
        compared = replaced = False
        try:
            with self._alone() as connection:
                builds = lock_builds(connection, self._projection.name)
                if not self._advance.is_ours(builds.get(self.build.slot)):
                    return Filled.CHANGED
                reached = self._advance.catch_up(connection, self._last_position(builds))
                if reached.whole and not self._compared:
                    compared = self._compare(connection, builds, reached.position)
                elif reached.whole:
                    replaced = True
                    if self._replace and not self._projection.in_schema:
                        swap(connection, builds, self.build.slot)
        except Poison:
            self._refused = True
            return Filled.GOING_ON
        self._advance.caught_up(reached)
        if self._comparison is not None:
            self._comparison.settle()
        self._compared = self._compared or compared
        if not replaced:
            return Filled.GOING_ON
        if self._replace:
            publish(self._database, self._projection)
        if self._projection.in_schema or not self._replace:
            clear(self._database, self._projection, self.build)
        return Filled.DONE

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A transaction in which the live tables do not change."""
        database = self._database
        inline = self._projection.inline
        with database.writing(exclusive=True) if inline else database.changing(derived=True) as connection:
            yield connection

    def _last_position(self, builds: Builds) -> int | None:
        """The position that the build must have now; None: the end of the log, as writers wait."""
        if self._projection.inline:
            return None
        live = live_build(builds)
        if live is not None and (not self._compared or live.position > self.goal):
            return live.position
        return self.goal

    def _compare(self, connection: Connection, builds: Builds, position: int) -> bool:
        """Compare the next range; True if all ranges are compared."""
        if self._comparison is None:
            slot = self._slot_to_compare(builds, position)
            if slot is None:
                return True
            live, new = self._projection.on(slot), self._projection.on(self.build.slot)
            names = [table.name for table in type(self._projection).tables]
            correct = self._projection.in_schema and self._replace
            self._comparison = Comparison(live, new, names, correct=correct)
        return not self._comparison.step(connection)

    def _slot_to_compare(self, builds: Builds, position: int) -> Slot | None:
        """The slot of the live tables; None without live tables of this version at this position."""
        if self._projection.in_schema:
            return "a"
        live = live_build(builds)
        if live is None or live.version != self._projection.version:
            return None
        return live.slot if self._projection.inline or live.position == position else None
