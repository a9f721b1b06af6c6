"""Projections over HTTP: how far they are, a rebuild, and the prices that the usage projection applies."""

import threading

import msgspec
import structlog
from msgspec import Struct
from starlette.responses import Response

from runstore.core.errors import RunstoreError
from runstore.http.errors import BadRequest, Forbidden
from runstore.http.json import json_response
from runstore.http.operations import Call, Operation, ResponseSpec
from runstore.http.requests import Parameter
from runstore.http.schemas import TEXT, json
from runstore.maintenance.projection_status import ProjectionStatus
from runstore.maintenance.projections import Projections
from runstore.projections.prices import Prices
from runstore.threads import in_own_thread

PROJECTION = Parameter("name", TEXT, "a projection, as in the list", "path")

log = structlog.get_logger(__name__)


class ProjectionPage(Struct, frozen=True):
    """All projections, also those that only the database knows."""

    data: list[ProjectionStatus]


class PriceRecord(Struct, frozen=True):
    """A price of a model from a day on (UTC; null: always), in units of `currency` per million tokens."""

    model: str
    from_date: str | None
    input: float
    output: float
    cache_read: float | None
    cache_write: float | None
    currency: str


class PricePage(Struct, frozen=True):
    """The prices of the configuration."""

    data: list[PriceRecord]


class ProjectionRoutes:
    """`/projections` and `/prices`."""

    tag = "projections"

    def __init__(self, projections: Projections, prices: Prices) -> None:
        self._projections = projections
        self._prices = prices
        self._rebuilt: set[str] = set()  # in this process, now
        self._lock = threading.Lock()

    @Operation(
        "GET",
        "/projections",
        answers={200: json("the projections", ProjectionPage)},
        problems=(Forbidden,),
    )
    async def list_projections(self, call: Call[None]) -> Response:
        """How far the projections are; for admins and auditors."""
        if not call.user.reads_all:
            raise Forbidden("the state of the projections is for admins and auditors")
        return json_response(ProjectionPage(await in_own_thread(self._projections.status)))

    @Operation(
        "POST",
        "/projections/{name}/rebuild",
        parameters=(PROJECTION,),
        answers={
            202: ResponseSpec(description="the rebuild is under way; `rebuilt_to` in the list shows how far")
        },
        problems=(Forbidden, (404, "projection_not_found")),
    )
    async def rebuild_projection(self, call: Call[None]) -> Response:
        """Rebuild a projection from the log while its live tables serve; for admins."""
        if not call.user.admin:
            raise Forbidden("only admins may rebuild a projection")
        name = call.request.path_params["name"]
        if name not in self._projections.names:
            message = f"there is no projection {name[:100]!r}"
            raise BadRequest(message, code="projection_not_found", status=404)
        with self._lock:
            fresh = name not in self._rebuilt
            self._rebuilt.add(name)
        if fresh:
            log.info("projection_rebuild_asked", projection=name, user_id=call.user.user_id)
            threading.Thread(target=self._rebuild, args=[name], daemon=True).start()
        return Response(status_code=202)

    def _rebuild(self, name: str) -> None:
        """In a thread of its own. If the process ends, another one continues the rebuild."""
        try:
            self._projections.rebuild(name)
        except RunstoreError as error:  # the list of projections shows it, too
            log.error("projection_rebuild_failed", projection=name, error=str(error))
        finally:
            with self._lock:
                self._rebuilt.discard(name)

    @Operation("GET", "/prices", answers={200: json("the prices", PricePage)})
    async def list_prices(self, call: Call[None]) -> Response:
        """The prices of models, by which the cost of runs is reckoned."""
        found = [
            PriceRecord(model, _day(price.from_date), *msgspec.structs.astuple(price)[:5])
            for model, price in self._prices
        ]
        return json_response(PricePage(found))


def _day(day: object) -> str | None:
    return None if str(day) == "0001-01-01" else str(day)
