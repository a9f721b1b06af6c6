"""Deletes runs, and purges them for good."""

import asyncio
from functools import partial

from msgspec import Struct
from starlette.responses import Response

from runstore.core import errors
from runstore.http.errors import Forbidden
from runstore.http.json import RunId, json_response
from runstore.http.operations import Call, Operation, ResponseSpec
from runstore.http.query import Query, Text, flag
from runstore.http.schemas import MAX_REASON, RUN_ID, json
from runstore.http.security.access import Access
from runstore.store.erasure import Erasure
from runstore.store.runs import RunStore
from runstore.threads import in_own_thread

MAX_FORKS = 1_000  # ids of one answer


class DeletionQuery(Query):
    """How a run is deleted."""

    purge = flag("`true`: remove the run's events for good")
    reason = Text(
        {"type": "string", "minLength": 1, "maxLength": MAX_REASON},
        "needed with `purge=true`, for the audit log",
    )
    pseudonym = flag(
        "with `purge=true`: replace the names of user and session in the remaining event, also of a run "
        "that was purged before"
    )


class PurgedRun(Struct, frozen=True):
    """A run whose events are removed.

    `forks`: runs that began with a copy of its conversation, which stay; at most 1,000 of `forks_total`.
    """

    run_id: RunId
    forks: list[RunId]
    forks_total: int


class DeletionRoutes:
    """`DELETE /runs/{run_id}`."""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access, erasure: Erasure) -> None:
        self._store = store
        self._access = access
        self._erasure = erasure
        self._purges = asyncio.Lock()  # one at a time: each has connections of its own

    @Operation(
        "DELETE",
        "/runs/{run_id}",
        parameters=(RUN_ID,),
        query=DeletionQuery,
        answers={
            204: ResponseSpec(description="the run is deleted"),
            200: json("with `purge=true`: its events are removed", PurgedRun),
        },
        problems=(errors.InvalidQuery, errors.RunActive, errors.RunClosed, Forbidden),
    )
    async def delete_run(self, call: Call[DeletionQuery]) -> Response:
        """Take a closed run out of the lists; or purge it, as an admin."""
        query = call.query
        run_id = await self._access.changeable(call.request)
        if query.purge:
            return await self._purge(call, run_id)
        if query.pseudonym or query.reason is not None:
            raise errors.InvalidQuery("pseudonym and reason need purge=true")
        await self._store.delete(run_id, by=call.login.actor)
        return Response(status_code=204)

    async def _purge(self, call: Call[DeletionQuery], run_id: str) -> Response:
        reason, pseudonym = call.query.reason, call.query.pseudonym
        if not call.user.admin:
            raise Forbidden("only an admin may purge runs")
        if reason is None:
            raise errors.InvalidQuery("purge=true needs a reason, for the audit log")
        head = await self._store.head(run_id, deleted=True, purged=pseudonym)
        if not head.closed:
            raise errors.RunActive(f"run {run_id} has not ended: stop it, then purge it")
        async with self._purges:
            purge = partial(self._erasure.purge_run, by=call.login.actor, reason=reason, pseudonym=pseudonym)
            forks = await in_own_thread(purge, run_id)
        listed = [fork.run_id for fork in forks[:MAX_FORKS]]
        return json_response(PurgedRun(run_id, listed, len(forks)))
