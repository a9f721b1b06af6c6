"""The numbers of this process, for Prometheus."""

from collections.abc import Callable

from starlette.responses import Response

from runstore.http.errors import Forbidden
from runstore.http.openapi.schemas import TEXT
from runstore.http.operations import Answer, Call, operation

Exposition = Callable[[str], tuple[bytes, str]]  # of an `Accept` header: the metrics, and their media type


class MetricsRoutes:
    """`/metrics`, in the text format or in OpenMetrics, whichever `Accept` prefers; for admins."""

    def __init__(self, expose: Exposition) -> None:
        self._expose = expose

    @operation(
        "GET",
        "/metrics",
        answers={
            200: Answer(
                description="the metrics",
                content={"text/plain": TEXT, "application/openmetrics-text": TEXT},
                headers={"Cache-Control": {"const": "no-store"}},
            )
        },
        problems=(Forbidden,),
        strict=False,
    )
    async def read_metrics(self, call: Call[None]) -> Response:
        """Numbers for Prometheus, in its text format or in OpenMetrics, for admins."""
        if not call.user.admin:
            raise Forbidden("the metrics are for admins")
        body, media_type = self._expose(call.request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})


def no_metrics(accept: str) -> tuple[bytes, str]:
    """The exposition of an app that was given none."""
    return b"", "text/plain; version=0.0.4; charset=utf-8"
