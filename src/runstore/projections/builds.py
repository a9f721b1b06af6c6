"""Builds: the filled tables of a projection, and how far each has come.

A projection has two slots, and at most one build in each. The live build is the one that is read; the other
one is being filled to replace it, or was replaced. Everything about a build is in its row, so another process
can continue the work of a killed one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import (
    Connection,
    MetaData,
    Row,
    Table,
    and_,
    bindparam,
    delete,
    exc,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.schema import DropTable

from runstore.core.codec import RecordedEvent, to_json
from runstore.core.errors import ConfigError
from runstore.core.times import now_ms
from runstore.database.database import Database
from runstore.database.tables import projections
from runstore.projections.projection import Projection, Slot

# running: takes events. paused: by command. failed: an event was refused. checking: filled by `verify`, never
# live. retired: replaced by the other slot's build.
BuildState = Literal["running", "paused", "failed", "checking", "retired"]

UNPREPARED = 0  # the version of a build whose tables are not complete
MAX_ERROR_CHARS = 2_000  # characters of an exception's text in a row

Key = tuple[str, Slot]  # a build's projection (its name) and slot

_p = projections.c
log = structlog.get_logger(__name__)
_read_names = msgspec.json.Decoder(list[str]).decode


class ProjectionFault(Struct, frozen=True):
    """Why a build takes no more events: the event, the exception, and how to go on.

    `run_id`, `seq`, `position`, `type`: of the event; None if the tables could not be made.
    """

    error: str
    remedy: str
    run_id: str | None = None
    seq: int | None = None
    position: int | None = None
    type: str | None = None


_read_fault = msgspec.json.Decoder(ProjectionFault).decode


class Build(Struct, frozen=True):
    """A row of `projections`. `position`: all events up to it are applied. Times: ms since 1970, UTC."""

    name: str
    slot: Slot
    version: int
    fingerprint: str
    inline: bool
    tables: list[str]
    position: int
    live: bool
    state: BuildState
    error: ProjectionFault | None
    skipped: int
    updated_at: int
    owner: str | None
    beat: int


def read_builds(connection: Connection, name: str | None = None) -> list[Build]:
    """All builds, or those of a projection."""
    query = select(*_COLUMNS).order_by(_p.name, _p.slot)
    return list(map(_build, connection.execute(query if name is None else query.where(_p.name == name))))


def builds_of(connection: Connection, name: str) -> dict[Slot, Build]:
    """A projection's builds."""
    return {build.slot: build for build in read_builds(connection, name)}


def lock_builds(connection: Connection, name: str) -> dict[Slot, Build]:
    """A projection's builds, which no other process changes until the end of the transaction."""
    query = select(*_COLUMNS).where(_p.name == name).order_by(_p.slot).with_for_update()
    return {build.slot: build for build in map(_build, connection.execute(query))}


def lock_build(connection: Connection, name: str, slot: Slot) -> Build | None:
    """One build, locked in the same way."""
    return lock_each(connection, [(name, slot)]).get((name, slot))


def lock_each(connection: Connection, keys: Sequence[Key]) -> dict[Key, Build]:
    """Those of these builds that exist, locked in the order of their names."""
    wanted = or_(*(and_(*_is(name, slot)) for name, slot in keys))
    query = select(*_COLUMNS).where(wanted).order_by(_p.name, _p.slot).with_for_update()
    return {(build.name, build.slot): build for build in map(_build, connection.execute(query))}


def by_name(builds: Iterable[Build], names: Iterable[str]) -> dict[str, dict[Slot, Build]]:
    """The builds of these projections, and of all others that have any."""
    found: dict[str, dict[Slot, Build]] = {name: {} for name in names}
    for build in builds:
        found.setdefault(build.name, {})[build.slot] = build
    return found


def other_slot(slot: Slot) -> Slot:
    return "b" if slot == "a" else "a"


def live_build(builds: Mapping[Slot, Build]) -> Build | None:
    return next((build for build in builds.values() if build.live), None)


def prepare(
    database: Database,
    projection: Projection,
    slot: Slot,
    *,
    seen: Build | None,
    owner: str | None,
    live: bool = False,
    state: BuildState = "running",
) -> bool:
    """Begin a build: replace what the slot holds, which is `seen`, by empty tables.

    False if another process has changed the slot since.

    Repeatable after a crash: MySQL commits at each change of the schema. Until the end, the row has the
    version UNPREPARED and names all tables that may be there.
    """
    bound = projection.on(slot)
    names = [table.name for table in bound.tables]
    publish(database, projection)
    row = {
        "fingerprint": projection.fingerprint, "inline": int(projection.inline), "live": int(live),
        "position": 0, "error": None, "error_position": None, "skipped": 0, "owner": owner,
        "updated_at": now_ms(),
    }  # fmt: skip
    with database.changing() as connection:
        builds = lock_builds(connection, projection.name)
        old = builds.get(slot)
        if old != seen:
            return False
        known = old.tables if old is not None else []
        begun = row | {
            "version": UNPREPARED, "tables": to_json(sorted({*known, *names})), "state": state,
            "beat": old.beat + 1 if old is not None else 1,
        }  # fmt: skip
        if old is None:
            try:
                connection.execute(insert(projections).values(name=projection.name, slot=slot, **begun))
            except exc.IntegrityError:
                return False
        else:
            connection.execute(update(projections).where(*_is(projection.name, slot)).values(begun))
    with database.changing() as connection:
        if not _owned(connection, projection.name, slot, owner):
            return False
        bound.drop(connection)
        for table in {*known}.difference(names):
            _drop_table(connection, table)
        bound.create(connection)
        ready = {"version": projection.version, "tables": to_json(names), "updated_at": now_ms()}
        connection.execute(update(projections).where(*_is(projection.name, slot)).values(ready))
    if live:
        publish(database, projection)
    return True


def publish(database: Database, projection: Projection) -> None:
    """Let programs that read by SQL find the live tables: see `Projection.publish`.

    Missing rights affect those programs alone, so they are logged and not raised.
    """
    try:
        with database.changing() as connection:
            live = live_build(builds_of(connection, projection.name))
            if live is None or live.version in (projection.version, UNPREPARED):
                ready = live is not None and live.version != UNPREPARED
                projection.publish(connection, live.slot if live is not None and ready else None)
    except exc.DBAPIError as error:
        if database.may_pass(error):
            raise
        log.warning("views_refused", projection=projection.name, error=str(error.orig))


def clear(database: Database, projection: Projection, build: Build) -> None:
    """Remove a build that its owner does not need any more, and its tables."""
    bound = projection.on(build.slot)
    with database.changing() as connection:
        if _owned(connection, build.name, build.slot, build.owner):
            bound.drop(connection)
            for table in {*build.tables}.difference(table.name for table in bound.tables):
                _drop_table(connection, table)
            connection.execute(delete(projections).where(*_is(build.name, build.slot)))


def clear_retired(database: Database, projection: Projection, build: Build, owner: str) -> None:
    """Remove a build that was replaced, and its tables, unless its slot is in use again.

    It is taken first: MySQL commits, and so releases the row, when it drops a table.
    """
    publish(database, projection)
    taken = replace(build, version=UNPREPARED, owner=owner, beat=build.beat + 1)
    with database.changing() as connection:
        if lock_build(connection, build.name, build.slot) != build:
            return
        values = {"version": taken.version, "owner": owner, "beat": taken.beat, "updated_at": now_ms()}
        connection.execute(update(projections).where(*_is(build.name, build.slot)).values(values))
    clear(database, projection, taken)


def advance_rows(connection: Connection, builds: Sequence[tuple[Build, str]], position: int) -> None:
    """Store how far locked builds have come, and who advances each."""
    values = [
        {
            "its_name": build.name, "its_slot": build.slot, "position": position, "owner": owner,
            "beat": build.beat + 1, "updated_at": now_ms(),
        }
        for build, owner in builds
    ]  # fmt: skip
    connection.execute(_ADVANCE, values)


def fail(connection: Connection, build: Build, failure: ProjectionFault) -> bool:
    """Stop a build at an event, unless it has moved."""
    values = {
        "state": "failed", "error": to_json(failure), "error_position": failure.position, "owner": None,
        "updated_at": now_ms(),
    }  # fmt: skip
    unmoved = (*_is(build.name, build.slot), _p.position == build.position, _p.version == build.version)
    return connection.execute(update(projections).where(*unmoved).values(values)).rowcount > 0


def fault_of(error: Exception, name: str, event: RecordedEvent | None) -> ProjectionFault:
    """The log text for an exception from a projection."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        text = f"{type(error.orig).__name__}: {error.orig}"  # without the statement and its values
    text = text.encode(errors="replace").decode()[:MAX_ERROR_CHARS]
    if event is None:
        return ProjectionFault(
            text, f"correct the tables of the projection, then runstore projections resume {name}"
        )
    remedy = (
        f"correct its code, then runstore projections resume {name}; "
        f"or leave the event out: runstore projections skip {name}"
    )
    return ProjectionFault(text, remedy, event.run_id, event.seq, event.position, event.type)


def release(connection: Connection, owner: str) -> None:
    """Give up all builds of a process, so that others need not wait for its silence."""
    connection.execute(update(projections).where(_p.owner == owner).values(owner=None))


def swap(connection: Connection, builds: Mapping[Slot, Build], to: Slot) -> None:
    """Make a locked build the live one; a pause goes over to it."""
    for build in builds.values():
        if build.slot != to and build.live:
            paused = build.state == "paused"
            retired = {"live": 0, "state": "retired", "owner": None, "error": None, "error_position": None}
            connection.execute(update(projections).where(*_is(build.name, build.slot)).values(retired))
            if paused:
                _set_state(connection, builds[to], "paused")
    values = {"live": 1, "updated_at": now_ms()}
    connection.execute(update(projections).where(*_is(builds[to].name, to)).values(values))


# ---- commands ----


def pause(connection: Connection, name: str) -> None:
    """Let a projection take no more events until `resume`.

    Raises:
        ConfigError: it has no build, or is paused or failed already.
    """
    for build in _commanded(connection, name, "running", "pause"):
        _set_state(connection, build, "paused")


def resume(connection: Connection, name: str) -> None:
    """Let a paused or failed projection take events again, from the first one that it has not applied."""
    for build in _commanded(connection, name, "paused", "failed", "resume"):
        _set_state(connection, build, "running")


def faults(connection: Connection, name: str) -> list[ProjectionFault]:
    """The events at which a projection failed.

    Raises:
        ConfigError: it did not fail at an event.
    """
    return [fault for _, fault in _failed(connection, name)]


def skip(connection: Connection, name: str) -> list[ProjectionFault]:
    """Leave out the event at which a projection failed, and go on; return the events.

    The tables then differ from the log, until the code is corrected and they are rebuilt.
    """
    failed = _failed(connection, name)
    for build, fault in failed:
        _set_state(connection, build, "running")
        moved = {"position": fault.position, "skipped": build.skipped + 1}
        connection.execute(update(projections).where(*_is(name, build.slot)).values(moved))
    return [fault for _, fault in failed]


def _failed(connection: Connection, name: str) -> list[tuple[Build, ProjectionFault]]:
    """The builds that failed at an event, locked."""
    failed = []
    for build in _commanded(connection, name, "failed", "skip"):
        if build.error is None or build.error.position is None:
            raise ConfigError(f"projection {name!r}: it did not fail at an event; use resume")
        failed.append((build, build.error))
    return failed


def forget(database: Database, name: str, projection: Projection | None) -> None:
    """Remove all builds and tables of a projection. `projection`: its code, if this process has it."""
    if projection is not None:
        with database.changing() as connection:
            projection.publish(connection, None)
    with database.writing(exclusive=True) as connection:  # appends may be using the tables
        for build in lock_builds(connection, name).values():
            for table in build.tables:
                _drop_table(connection, table)
            connection.execute(delete(projections).where(*_is(name, build.slot)))


def _commanded(connection: Connection, name: str, *wanted: str) -> Sequence[Build]:
    """The builds in a state to which a command applies; the command is the last of `wanted`."""
    *states, command = wanted
    builds = lock_builds(connection, name).values()
    found = [build for build in builds if build.state in states]
    if not found:
        are = " and ".join(sorted({build.state for build in builds if build.state != "retired"}))
        raise ConfigError(
            f"projection {name!r}: {command} needs a projection that is {' or '.join(states)}, "
            f"and it is {are or 'not built'}"
        )
    return found


def _set_state(connection: Connection, build: Build, state: BuildState) -> None:
    values = {"state": state, "error": None, "error_position": None, "owner": None, "updated_at": now_ms()}
    connection.execute(update(projections).where(*_is(build.name, build.slot)).values(values))


def _owned(connection: Connection, name: str, slot: Slot, owner: str | None) -> bool:
    query = select(_p.owner).where(*_is(name, slot)).with_for_update()
    return connection.execute(query).scalar() == owner


def _drop_table(connection: Connection, name: str) -> None:
    """Drop a table that a release before this one made."""
    connection.execute(DropTable(Table(name, MetaData()), if_exists=True))


def _is(name: str, slot: Slot) -> tuple[Any, Any]:
    return _p.name == name, _p.slot == slot


def _build(row: Row[Any]) -> Build:
    decoded = {
        "inline": bool(row.inline), "tables": _read_names(row.tables), "live": bool(row.live),
        "error": None if row.error is None else _read_fault(row.error),
    }  # fmt: skip
    return Build(**row._asdict() | decoded)


_COLUMNS = [_p[name] for name in Build.__struct_fields__]
_ADVANCE = (
    update(projections)
    .where(_p.name == bindparam("its_name"), _p.slot == bindparam("its_slot"))
    .values({name: bindparam(name) for name in ("position", "owner", "beat", "updated_at")})
)
