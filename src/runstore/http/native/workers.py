"""Who runs the agents of this database."""

from collections.abc import Awaitable, Callable

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from runstore.http.errors import Forbidden
from runstore.http.json import json_response
from runstore.http.requests import check_parameters
from runstore.http.security.users import user_of
from runstore.store.workers import Worker, WorkerRecord, record

ListWorkers = Callable[[], Awaitable[list[Worker]]]


class WorkerPage(Struct, frozen=True):
    """All workers that have not left, oldest first."""

    data: list[WorkerRecord]


class WorkerRoutes:
    """`/workers`, for admins."""

    def __init__(self, list_workers: ListWorkers) -> None:
        self._list_workers = list_workers

    async def list(self, request: Request) -> Response:
        check_parameters(request, ())
        if not user_of(request).admin:
            raise Forbidden("the workers are for admins to see")
        return json_response(WorkerPage([record(worker) for worker in await self._list_workers()]))


async def no_workers() -> list[Worker]:
    """Of an app that was not told where they are."""
    return []
