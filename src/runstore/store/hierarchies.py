"""Stores the hierarchies that users define. A run holds its own copy."""

from collections.abc import Awaitable, Iterator
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, delete, func, insert, select

from runstore.core.errors import LimitExceeded, RunstoreError
from runstore.core.hierarchy import Hierarchy, Problem, check_size
from runstore.core.ids import new_run_id, parse_uuid
from runstore.database.database import Database
from runstore.database.tables import hierarchies
from runstore.runtime.catalog.teams import Teams


class HierarchyNotFound(RunstoreError):
    """There is no such hierarchy."""

    code = "hierarchy_not_found"


class InvalidHierarchy(RunstoreError):
    """The hierarchy cannot run here. `field`: the place of the fault, such as `$.teams[0].name`."""

    code = "invalid_hierarchy"

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.field}: {problem.message}")
        self.field = problem.field


class HierarchySummary(Struct, frozen=True):
    """A hierarchy without its content. `hierarchy_id`: UUIDv7; `created_at`: UTC, milliseconds since 1970."""

    hierarchy_id: str
    user_id: str
    name: str
    created_at: int


class StoredHierarchy(Struct, frozen=True):
    """A hierarchy and its owner."""

    summary: HierarchySummary
    hierarchy: Hierarchy


_SUMMARY = [hierarchies.c[name] for name in HierarchySummary.__struct_fields__]


class HierarchyStore:
    """Operations on hierarchies. They raise LogUnavailable while the database cannot be used.

    Args:
        per_user: hierarchies that a user may have.
    """

    def __init__(self, database: Database, teams: Teams, *, per_user: int) -> None:
        self._database = database
        self._teams = teams
        self._per_user = per_user

    async def create(self, hierarchy: Hierarchy, *, user_id: str, now: int) -> StoredHierarchy:
        """Store a new hierarchy. `now`: UTC, milliseconds since 1970.

        Raises:
            InvalidHierarchy: it cannot run here.
            LimitExceeded: the user has reached the limit.
        """
        _refuse(check_size(hierarchy))
        _refuse(self._teams.problems(hierarchy))
        summary = HierarchySummary(new_run_id(), user_id, hierarchy.name, now)
        stored = StoredHierarchy(summary, hierarchy)
        await self._database.change_exclusively(_insert, stored, self._per_user)
        return stored

    async def get(self, hierarchy_id: str) -> StoredHierarchy:
        """One hierarchy of any user.

        Raises:
            HierarchyNotFound
        """
        return await self._database.query(_find, parse_hierarchy_id(hierarchy_id))

    def find(
        self, *, user_id: str | None, before: str | None, limit: int
    ) -> Awaitable[list[HierarchySummary]]:
        """The hierarchies of one user or of all, newest first. `before`: continue after this id."""
        return self._database.query(_find_all, user_id, before, limit)

    def definition(self, hierarchy: Hierarchy) -> dict[str, Any]:
        """The definition that a run of the hierarchy holds.

        Raises:
            InvalidHierarchy: it cannot run here, perhaps since a change of the configuration.
        """
        _refuse(self._teams.problems(hierarchy))
        return self._teams.definition(hierarchy)

    async def delete(self, hierarchy_id: str) -> None:
        """Delete a hierarchy; its runs stay unchanged.

        Raises:
            HierarchyNotFound
        """
        await self._database.change_exclusively(_delete, parse_hierarchy_id(hierarchy_id))


def parse_hierarchy_id(text: str) -> str:
    """The canonical form of an id from outside, as `parse_run_id`.

    Raises:
        HierarchyNotFound: `text` is not a UUID, so no hierarchy can have it.
    """
    if (hierarchy_id := parse_uuid(text)) is None:
        raise HierarchyNotFound(f"there is no hierarchy {text[:100]!r}: its id is a UUID")
    return hierarchy_id


def _refuse(found: Iterator[Problem]) -> None:
    for problem in found:
        raise InvalidHierarchy(problem)


def _insert(connection: Connection, stored: StoredHierarchy, most: int) -> None:
    user_id = stored.summary.user_id
    count = select(func.count()).select_from(hierarchies).where(hierarchies.c.user_id == user_id)
    if connection.execute(count).scalar_one() >= most:
        message = f"user {user_id} has {most:,} hierarchies, as many as allowed"
        raise LimitExceeded("hierarchies_per_user", message)
    values = {**asdict(stored.summary), "definition": msgspec.json.encode(stored.hierarchy)}
    connection.execute(insert(hierarchies).values(values))


def _find(connection: Connection, hierarchy_id: str) -> StoredHierarchy:
    this = hierarchies.c.hierarchy_id == hierarchy_id
    row = connection.execute(select(hierarchies.c.definition, *_SUMMARY).where(this)).first()
    if row is None:
        raise _missing(hierarchy_id)
    definition, *summary = row
    return StoredHierarchy(HierarchySummary(*summary), msgspec.json.decode(definition, type=Hierarchy))


def _find_all(
    connection: Connection, user_id: str | None, before: str | None, limit: int
) -> list[HierarchySummary]:
    query = select(*_SUMMARY).order_by(hierarchies.c.hierarchy_id.desc()).limit(limit)
    if user_id is not None:
        query = query.where(hierarchies.c.user_id == user_id)
    if before is not None:
        query = query.where(hierarchies.c.hierarchy_id < before)
    return [HierarchySummary(*row) for row in connection.execute(query)]


def _delete(connection: Connection, hierarchy_id: str) -> None:
    if not connection.execute(delete(hierarchies).where(hierarchies.c.hierarchy_id == hierarchy_id)).rowcount:
        raise _missing(hierarchy_id)


def _missing(hierarchy_id: str) -> HierarchyNotFound:
    return HierarchyNotFound(f"there is no hierarchy {hierarchy_id}")
