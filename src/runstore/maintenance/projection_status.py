"""The progress of projections, and why one waits."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from sqlalchemy import Connection

from runstore.core.times import now_ms
from runstore.eventlog.queries import last_position, read_first_at
from runstore.projections.builds import UNPREPARED, Build, ProjectionFault, by_name, live_build, read_builds
from runstore.projections.projection import Projection, Slot

# running, paused, failed: as of its build. unbuilt: no process has made its tables yet. outdated, newer: its
# tables are of an older or newer version than this code. unknown: this process has no code for it.
ProjectionState = Literal["running", "paused", "failed", "unbuilt", "outdated", "newer", "unknown"]

STALLED_S = 5.0  # seconds without progress, with events waiting, before a projection counts as stalled


class ProjectionStatus(Struct, frozen=True):
    """How far a projection is.

    version: of this process's code; None if the code does not have it.
    live_version: of the tables that are read; None without such tables.
    position: the checkpoint: events up to this position of the log are applied. None for an inline
        projection, which is never behind.
    lag_events: positions up to the end of the log, at most so many events. lag_s: age of the first of them.
    configured: False if its tables were made with another configuration, such as other prices: rebuild it.
    rebuilt_to: the position that a rebuild, or a new version, has reached beside the live tables.
    waits: what it waits for, if it makes no progress. skipped: events that were left out by command.
    """

    name: str
    inline: bool
    version: int | None
    live_version: int | None
    state: ProjectionState
    position: int | None
    lag_events: int
    lag_s: float
    configured: bool
    rebuilt_to: int | None
    waits: str | None
    error: ProjectionFault | None
    skipped: int


def read_status(connection: Connection, known: Mapping[str, Projection]) -> list[ProjectionStatus]:
    """All projections, also those that only the database knows. `known`: those that have code, by name."""
    builds = by_name(read_builds(connection), known)
    last = last_position(connection)
    return [_status(connection, name, known.get(name), builds[name], last) for name in sorted(builds)]


def _status(
    connection: Connection, name: str, code: Projection | None, builds: dict[Slot, Build], last: int
) -> ProjectionStatus:
    live = live_build(builds)
    other = next(
        (b for b in builds.values() if not b.live and b.state in ("running", "paused", "failed")), None
    )
    inline = code.inline if code is not None else any(build.inline for build in builds.values())
    in_schema = code is not None and code.in_schema
    shown = live or other
    behind = live is not None and not inline and live.version != UNPREPARED
    position = live.position if live is not None and behind else None
    lag = max(last - position, 0) if position is not None else 0
    at = read_first_at(connection, position) if position is not None and lag else None
    failing = next((build for build in (live, other) if build is not None and build.error is not None), None)
    state = _state(code, live, in_schema)
    return ProjectionStatus(
        name=name,
        inline=inline,
        version=code.version if code is not None else None,
        live_version=code.version if code is not None and in_schema else live.version if live else None,
        state="failed" if failing is not None and state in ("running", "outdated") else state,
        position=position,
        lag_events=lag,
        lag_s=max(now_ms() - at, 0) / 1_000 if at is not None else 0.0,
        configured=code is None or live is None or live.fingerprint == code.fingerprint,
        rebuilt_to=other.position if other is not None else None,
        waits=_waits(state, shown, lag if other is None else 1),
        error=failing.error if failing is not None else None,
        skipped=shown.skipped if shown is not None else 0,
    )


def _state(code: Projection | None, live: Build | None, in_schema: bool) -> ProjectionState:
    if code is None:
        return "unknown"
    if in_schema:
        return "running"
    if live is None or live.version == UNPREPARED:
        return "unbuilt"
    if live.version > code.version:
        return "newer"
    if live.version < code.version:
        return "outdated"
    return live.state if live.state in ("paused", "failed") else "running"


def _waits(state: ProjectionState, build: Build | None, behind: int) -> str | None:
    if state == "unknown":
        return "for the package that has it, or runstore projections drop"
    if state == "newer":
        return "for an upgrade of the package that has it"
    if state == "paused":
        return "for runstore projections resume"
    if state == "failed":
        return "for a correction, then runstore projections resume, or skip"
    if build is None:
        return "for a process that runs it" if state == "unbuilt" else None
    silent_s = (now_ms() - build.updated_at) / 1_000
    if not behind or silent_s < STALLED_S:
        return None
    cause = "no process runs it" if build.owner is None else "its process is slow or gone"
    return f"no progress for {silent_s:.0f} s: {cause}"
