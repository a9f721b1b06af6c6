"""The processes that run the agents of this database."""

from collections.abc import Awaitable, Callable

from msgspec import Struct
from starlette.responses import Response

from runstore.http.errors import Forbidden
from runstore.http.json import json_response
from runstore.http.openapi.schemas import json
from runstore.http.operations import Call, operation
from runstore.store.workers import Worker, WorkerRecord, record

ListWorkers = Callable[[], Awaitable[list[Worker]]]


class WorkerPage(Struct, frozen=True):
    """All workers that have not left, oldest first."""

    data: list[WorkerRecord]


class WorkerRoutes:
    """`/workers`, for admins."""

    def __init__(self, list_workers: ListWorkers) -> None:
        self._list_workers = list_workers

    @operation("GET", "/workers", answers={200: json("the workers", WorkerPage)}, problems=(Forbidden,))
    async def list_workers(self, call: Call[None]) -> Response:
        """Who runs the agents of this database, oldest first, for admins."""
        if not call.user.admin:
            raise Forbidden("the workers are for admins to see")
        return json_response(WorkerPage([record(worker) for worker in await self._list_workers()]))


async def no_workers() -> list[Worker]:
    """The workers of an app that was not given a list of them."""
    return []
