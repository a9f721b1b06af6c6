"""Runs projections beside the log: every process may have a runner, and one at a time advances each build.

The runner that advances a build writes its name and a growing beat into the build's row. Another runner takes
the build over when events wait and the beat has not changed for LEASE_S, by its own clock. An idle runner
therefore writes nothing. Should two advance one build, each event is still applied once: see `advance.py`.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Self
from uuid import uuid4

import structlog

from runstore.core.backoff import Backoff
from runstore.core.ports import Committed, Publisher
from runstore.core.times import now_ms
from runstore.database.database import Database
from runstore.eventlog.queries import last_position, read_first_at
from runstore.projections.advance import Advance, StepResult
from runstore.projections.builds import (
    UNPREPARED,
    Build,
    by_name,
    clear_retired,
    fail,
    fault_of,
    live_build,
    lock_build,
    other_slot,
    prepare,
    publish,
    read_builds,
    release,
)
from runstore.projections.filling import Filled, Filling
from runstore.projections.projection import Projection, Slot
from runstore.projections.silences import Silences
from runstore.threads import in_own_thread

LEASE_S = 10.0  # seconds without a beat, while events wait, after which another runner takes a build over
POLL_S = 1.0  # seconds between two polls for other processes' events and commands
TICK_S, LONGEST_TICK_S = 0.5, 2.0  # seconds between two rounds of work that keeps up with writers
WORK_SHARE = 0.05  # the share of the time that this work may take: on SQLite writers wait for it
TURN_S = 0.006  # seconds between two transactions: a waiting writer looks every 5 ms for its turn
STORE_S = 1.0  # seconds between two stores of a position that only other events have moved
FIRST_WAIT_S, LAST_WAIT_S = 0.1, 5.0  # seconds before another try while the database fails
RETIRED_S = 60.0  # seconds before replaced tables are dropped, for those who found them before
ONCE_S = 30.0  # seconds of failures after which `--once` gives up
STOP_S = 0.3  # seconds for the transaction in progress when the runner stops; it takes about 20 ms

log = structlog.get_logger(__name__)


class Waking:
    """A feed that also wakes a runner at each commit of this process."""

    def __init__(self, feed: Publisher, wake: Callable[[], None]) -> None:
        self._feed = feed
        self._wake = wake

    def publish(self, commits: Sequence[Committed]) -> None:
        """See `Publisher.publish`."""
        self._feed.publish(commits)
        self._wake()


class ProjectionRunner:
    """Keeps projections up to date while it is entered, in a thread of its own.

    A failing database only pauses it. An event that a projection refuses stops that projection alone. Inline
    projections are part of the appends; the runner only finishes their rebuilds.
    """

    def __init__(
        self, database: Database, projections: Iterable[Projection], *, lease_s: float = LEASE_S
    ) -> None:
        projections = list(projections)
        # Of the live tables at the last look: positions by which they are behind.
        self.lags: Mapping[str, int] = {each.name: 0 for each in projections if not each.inline}
        self._first_at: Mapping[str, int | None] = {}  # when the first event that they lack happened
        self.failed: Mapping[str, bool] = dict.fromkeys(self.lags, False)  # stopped at an event
        self._database = database
        self._kept = [_Kept(database, projection, uuid4().hex) for projection in projections]
        self._silences = Silences(lease_s, longest_look_s=2 * POLL_S)
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    async def __aenter__(self) -> Self:
        self._thread = threading.Thread(target=self.run, name="runstore-projections", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await in_own_thread(self.stop)

    @property
    def lags_s(self) -> dict[str, float]:
        """Seconds by which they are behind now, if nothing was applied since the last look."""
        return {name: _age_s(self._first_at.get(name)) for name in self.lags}

    def wake(self) -> None:
        """Look for events now. Called from any thread; does not block."""
        self._news.set()

    def request_stop(self) -> None:
        """Let `run` return after the transaction in progress. Called from any thread, or a signal handler."""
        self._stopping.set()
        self._news.set()

    def stop(self) -> None:
        """Stop, and wait for the transaction in progress. Safe to call before the start, and twice."""
        self.request_stop()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def run(self, *, once: bool = False) -> None:
        """Work until `stop`; with `once`, only until no projection has anything left to do.

        With `once`, raise the error that has blocked the work for ONCE_S seconds, usually a database error.
        """
        backoff, worked_s, well_at = Backoff(FIRST_WAIT_S, LAST_WAIT_S), 0.0, time.monotonic()
        while not self._stopping.is_set():
            self._news.clear()
            begun = time.monotonic()
            try:
                busy = self._make_round()
            except Exception as error:
                if once and time.monotonic() - well_at > ONCE_S:
                    raise
                self._fails(error)
                self._stopping.wait(backoff.next_s())
                continue
            self._recovers()
            failure = next((kept.failure for kept in self._kept if kept.failure is not None), None)
            if failure is None:
                well_at = time.monotonic()
            elif once and time.monotonic() - well_at > ONCE_S:
                raise failure
            backoff.reset()
            worked_s += time.monotonic() - begun
            if busy:
                self._stopping.wait(TURN_S)
            elif once and failure is None:
                break
            else:
                self._stopping.wait(min(max(TICK_S, worked_s / WORK_SHARE), LONGEST_TICK_S))
                worked_s = 0.0
                self._news.wait(POLL_S)
        self._release()

    def _make_round(self) -> bool:
        """Let each projection make one transaction; whether any of them has more to do now."""
        builds, last = self._look()
        furthest = max((build.position for build in builds if build.live), default=0)
        mark = self._database.dialect.high_water_mark(furthest)
        mark = last if mark is None else mark
        self._silences.look(builds, mark)
        of_each = by_name(builds, [kept.name for kept in self._kept])
        together = self._step_together(of_each, mark)
        busy = False
        for kept in self._kept:
            if not self._stopping.is_set():
                stepped = kept.name in together
                busy |= kept.work(of_each[kept.name], mark, self._silences, stepped=stepped)
        return busy

    def _look(self) -> tuple[list[Build], int]:
        """All builds, and the last position of the log; notes how far the live tables are behind."""
        with self._database.connect() as connection:
            builds, last = read_builds(connection), last_position(connection)
            positions = {build.name: build.position for build in builds if build.live}
            self.lags = {name: max(last - positions.get(name, 0), 0) for name in self.lags}
            behind = {name: positions.get(name, 0) for name, lag in self.lags.items() if lag}
            next_at = {position: read_first_at(connection, position) for position in {*behind.values()}}
        self._first_at = {name: next_at[position] for name, position in behind.items()}
        stopped = {build.name for build in builds if build.state == "failed"}
        self.failed = {name: name in stopped for name in self.lags}
        return builds, last

    def _step_together(self, builds: Mapping[str, Mapping[Slot, Build]], mark: int) -> set[str]:
        """Advance the live tables that are at one position in one transaction; the names of those that moved.

        In the order of names, as another process locks them.
        """
        at_hand: dict[int, dict[str, Advance]] = {}
        for kept in sorted(self._kept, key=lambda kept: kept.name):
            advance = kept.advance_of(builds[kept.name], self._silences)
            if advance is not None and advance.position < mark:
                at_hand.setdefault(advance.position, {})[kept.name] = advance
        moved: set[str] = set()
        for group in at_hand.values():
            if len(group) > 1 and not self._stopping.is_set():
                moved |= {*group} if Advance.step_together([*group.values()], mark) else set()
        return moved

    def _fails(self, error: Exception) -> None:
        self._silences.clear()  # each owner gets a whole lease after an outage
        unavailable = self._database.dialect.unavailable(error)
        if unavailable is None:
            log.error("projection_error", exc_info=error)
        elif not self._failing:
            log.warning("projections_wait", error=str(unavailable))
        self._failing = True

    def _recovers(self) -> None:
        if self._failing:
            log.info("projections_continue")
        self._failing = False

    def _release(self) -> None:
        if self._failing or any(kept.failure is not None for kept in self._kept):
            return  # the database would not take it either
        with suppress(Exception), self._database.changing() as connection:  # otherwise the lease runs out
            for kept in self._kept:
                release(connection, kept.owner)


def _age_s(at: int | None) -> float:
    return 0.0 if at is None else max(now_ms() - at, 0) / 1_000


class _Kept:
    """One projection in a runner: its builds, and its own pauses while the database fails for it."""

    def __init__(self, database: Database, projection: Projection, owner: str) -> None:
        self.name = projection.name
        self.owner = owner
        self._database = database
        self._projection = projection
        self._advance: Advance | None = None
        self._filling: Filling | None = None
        self.failure: Exception | None = None  # why it pauses, until its next transaction succeeds
        self._backoff = Backoff(FIRST_WAIT_S, LAST_WAIT_S)
        self._not_before = 0.0
        self._stored_at = 0.0
        self._retired: Build | None = None
        self._retired_at = 0.0  # when that build was first seen
        self._logged = ""  # the last logged state
        self._published = False

    def advance_of(self, builds: Mapping[Slot, Build], silences: Silences) -> Advance | None:
        """The `Advance` of the live tables, if they take events now and this process may write them."""
        live = live_build(builds)
        if self.failure is not None or live is None or live.inline or live.state != "running":
            return None
        if not self._is_current(live) or not silences.may_take(live, self.owner):
            return None
        if self._advance is None or not self._advance.is_ours(live):
            self._advance = Advance(self._database, self._projection, live, self.owner)
        return self._advance

    def work(
        self, builds: Mapping[Slot, Build], mark: int, silences: Silences, *, stepped: bool = False
    ) -> bool:
        """Make a transaction for each build that is due; whether one of them has more to do now.

        Args:
            stepped: the live build has moved in this round.
        """
        if time.monotonic() < self._not_before:
            return False
        try:
            busy = self._work(builds, mark, silences, stepped=stepped)
        except Exception as error:
            self._advance = self._filling = None
            self._fails(error)
            return False
        if self.failure is not None:
            self._backoff.reset()
            self.failure, self._not_before = None, 0.0
        return busy

    def _work(self, builds: Mapping[Slot, Build], mark: int, silences: Silences, *, stepped: bool) -> bool:
        version = self._projection.version
        newest = max((build.version for build in builds.values()), default=0)
        if newest > version:
            self._say(f"the database has version {newest}, and this process version {version}: upgrade it")
            # Until the newer tables are filled, those of this version serve: only this code can fill them.
            mine = self._advance if stepped else self.advance_of(builds, silences)
            return mine is not None and self._step(mine.build, mark, stepped=stepped)
        live = live_build(builds)
        if not self._published and live is not None:
            publish(self._database, self._projection)
            self._published = True
        slot = self._slot_to_begin(live, builds)
        if slot is not None:
            seen = builds.get(slot)
            may = seen is None or (seen.state != "failed" and silences.may_take(seen, self.owner))
            return may and self._begin(slot, seen, live=live is None or live.slot == slot)
        busy = False
        for build in builds.values():
            if self._is_current(build) and build.state == "running" and silences.may_take(build, self.owner):
                if not build.live and build.fingerprint == self._projection.fingerprint:
                    busy |= self._fill(build)
                elif build.live and not build.inline:
                    busy |= self._step(build, mark, stepped=stepped)
            elif build.state == "retired" and silences.may_take(build, self.owner):
                self._clear_retired(build)
        return busy

    def _slot_to_begin(self, live: Build | None, builds: Mapping[Slot, Build]) -> Slot | None:
        """The slot for a build of this version; None if there is one."""
        if self._projection.in_schema or any(map(self._is_current, builds.values())):
            return None
        if live is None:
            return "a"
        return live.slot if live.version == UNPREPARED else other_slot(live.slot)

    def _is_current(self, build: Build) -> bool:
        return build.version == self._projection.version and build.state not in ("retired", "checking")

    def _begin(self, slot: Slot, seen: Build | None, *, live: bool) -> bool:
        """Prepare a build. An inline one becomes live when it is filled."""
        live = live and not self._projection.inline
        try:
            return prepare(self._database, self._projection, slot, seen=seen, owner=self.owner, live=live)
        except Exception as error:
            if self._database.may_pass(error):
                raise
            failure = fault_of(error, self.name, None)
            with self._database.changing() as connection:
                build = lock_build(connection, self.name, slot)
                if build is None or not fail(connection, build, failure):
                    return False
            log.error("projection_failed", projection=self.name, error=failure.error, remedy=failure.remedy)
            return False

    def _step(self, build: Build, mark: int, *, stepped: bool) -> bool:
        """Advance the live build, unless it is `stepped`; whether it has more to do now.

        It has nothing more to do at the mark, even if events follow: otherwise each turn would apply a few.
        """
        if self._advance is None or not (stepped or self._advance.is_ours(build)):
            self._advance = Advance(self._database, self._projection, build, self.owner)
        advance = self._advance
        step = StepResult.MOVED if stepped else advance.step(mark)
        at_mark = step in (StepResult.MOVED, StepResult.AT_END) and advance.position >= mark
        if at_mark and time.monotonic() - self._stored_at > STORE_S:
            self._stored_at = time.monotonic()
            step = advance.store()
        if step in (StepResult.FAILED, StepResult.CHANGED):
            self._advance = None
        return step is StepResult.CHANGED or (step is StepResult.MOVED and not at_mark)

    def _fill(self, build: Build) -> bool:
        if self._filling is None or not self._filling.is_ours(build):
            self._filling = Filling(self._database, self._projection, build, self.owner)
        self._filling.look()
        filled = self._filling.step()
        if filled is Filled.GOING_ON:
            return True
        self._filling = None
        if filled is Filled.DONE:
            self._advance = None
            log.info("projection_rebuilt", projection=self.name, version=build.version)
        return filled is not Filled.FAILED

    def _clear_retired(self, build: Build) -> None:
        """Drop replaced tables after a while: a purge or a redaction does not reach them."""
        if build != self._retired:
            self._retired, self._retired_at = build, time.monotonic()
        if time.monotonic() - self._retired_at >= RETIRED_S:
            clear_retired(self._database, self._projection, build, self.owner)

    def _fails(self, error: Exception) -> None:
        self.failure, self._not_before = error, time.monotonic() + self._backoff.next_s()
        if self._database.dialect.is_conflict(error):
            return
        unavailable = self._database.dialect.unavailable(error)
        if unavailable is None:
            log.error("projection_error", projection=self.name, exc_info=error)
        else:
            self._say(f"waits: {unavailable}")

    def _say(self, what: str) -> None:
        if what != self._logged:
            self._logged = what
            log.warning("projection_waits", projection=self.name, reason=what)
