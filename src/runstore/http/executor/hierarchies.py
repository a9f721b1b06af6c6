"""Hierarchies of agents, as their users store them."""

from msgspec import Struct
from msgspec.structs import asdict
from starlette.responses import Response

from runstore.core import errors
from runstore.core.hierarchy import Hierarchy, Team
from runstore.core.times import now_ms, timestamp
from runstore.http.bodies import Body
from runstore.http.errors import Forbidden
from runstore.http.executor.answers import Limit, answer, success
from runstore.http.json import HierarchyId, Time
from runstore.http.native.runs import list_cursor
from runstore.http.operations import Call, Operation, Problem
from runstore.http.security.users import User
from runstore.store.hierarchies import (
    HierarchyNotFound,
    HierarchyStore,
    HierarchySummary,
    InvalidHierarchy,
    StoredHierarchy,
)

OF_A_HIERARCHY: tuple[Problem, ...] = (HierarchyNotFound, Forbidden)


class HierarchyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Names a hierarchy."""

    hierarchy_id: HierarchyId


class ListHierarchiesBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`after`: the `next` of an earlier page."""

    limit: Limit = 100
    after: HierarchyId | None = None


class HierarchyListed(Struct, frozen=True):
    """A hierarchy as a list shows it. `created_at`: RFC 3339, UTC."""

    hierarchy_id: HierarchyId
    user_id: str
    name: str
    created_at: Time


class HierarchyRecord(Struct, frozen=True):
    """A hierarchy as the API shows it."""

    hierarchy_id: HierarchyId
    user_id: str
    name: str
    created_at: Time
    global_prompt: str
    teams: list[Team]
    model: str | None
    approve: list[str]


class HierarchyPage(Struct, frozen=True):
    """Hierarchies, newest first."""

    hierarchies: list[HierarchyListed]
    next: HierarchyId | None


class DeletedHierarchy(Struct, frozen=True):
    """Names the deleted hierarchy."""

    hierarchy_id: HierarchyId


class HierarchyRoutes:
    """The routes below `/api/executor/v1/hierarchies`."""

    tag = "hierarchies"

    def __init__(self, hierarchies: HierarchyStore) -> None:
        self._hierarchies = hierarchies

    @Operation(
        "POST",
        "/hierarchies/create",
        body=Body(Hierarchy),
        answers={201: success("the hierarchy is stored", HierarchyRecord)},
        problems=(InvalidHierarchy, errors.LimitExceeded),
    )
    async def create_hierarchy(self, call: Call[Hierarchy]) -> Response:
        """Store a hierarchy of agents."""
        hierarchy = await call.body()
        stored = await self._hierarchies.create(hierarchy, user_id=call.user.user_id, now=now_ms())
        return answer(_shown(stored), 201)

    @Operation(
        "POST",
        "/hierarchies/list",
        body=Body(ListHierarchiesBody, optional=True),
        answers={200: success("a page of hierarchies", HierarchyPage)},
        problems=(errors.InvalidCursor,),
        reads=True,
    )
    async def list_hierarchies(self, call: Call[ListHierarchiesBody]) -> Response:
        """List hierarchies, newest first."""
        body = await call.body()
        user = call.user
        found = await self._hierarchies.find(
            user_id=None if user.reads_all else user.user_id,
            before=list_cursor(body.after) if body.after is not None else None,
            limit=body.limit + 1,
        )
        page = found[: body.limit]
        following = page[-1].hierarchy_id if len(found) > body.limit else None
        return answer(HierarchyPage([_listed(summary) for summary in page], following))

    @Operation(
        "POST",
        "/hierarchies/get",
        body=Body(HierarchyBody),
        answers={200: success("the hierarchy", HierarchyRecord)},
        problems=OF_A_HIERARCHY,
        reads=True,
    )
    async def get_hierarchy(self, call: Call[HierarchyBody]) -> Response:
        """One hierarchy."""
        body = await call.body()
        return answer(_shown(await own(self._hierarchies, call.user, body.hierarchy_id)))

    @Operation(
        "POST",
        "/hierarchies/delete",
        body=Body(HierarchyBody),
        answers={200: success("the hierarchy is deleted", DeletedHierarchy)},
        problems=OF_A_HIERARCHY,
    )
    async def delete_hierarchy(self, call: Call[HierarchyBody]) -> Response:
        """Delete a hierarchy; its runs stay."""
        body = await call.body()
        stored = await own(self._hierarchies, call.user, body.hierarchy_id)
        await self._hierarchies.delete(stored.summary.hierarchy_id)
        return answer(DeletedHierarchy(stored.summary.hierarchy_id))


async def own(hierarchies: HierarchyStore, user: User, hierarchy_id: str) -> StoredHierarchy:
    """A hierarchy of this user; admins and auditors may read all.

    Raises:
        HierarchyNotFound
        Forbidden: it is another user's.
    """
    stored = await hierarchies.get(hierarchy_id)
    if not user.reads_all and stored.summary.user_id != user.user_id:
        raise Forbidden(f"hierarchy {stored.summary.hierarchy_id} belongs to another user")
    return stored


def _shown(stored: StoredHierarchy) -> HierarchyRecord:
    hierarchy = stored.hierarchy
    return HierarchyRecord(
        **asdict(_listed(stored.summary)),
        global_prompt=hierarchy.global_prompt, teams=hierarchy.teams, model=hierarchy.model,
        approve=hierarchy.approve,
    )  # fmt: skip


def _listed(summary: HierarchySummary) -> HierarchyListed:
    return HierarchyListed(**{**asdict(summary), "created_at": timestamp(summary.created_at)})
