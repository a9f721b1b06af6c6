"""What the process is doing, for Prometheus."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from runstore.http.errors import Forbidden
from runstore.http.security.users import user_of

Exposition = Callable[[str], tuple[bytes, str]]  # of an `Accept` header: the metrics, and their media type


class MetricsRoute:
    """`/metrics`, in the text format or in OpenMetrics, whichever `Accept` prefers; for admins."""

    def __init__(self, expose: Exposition) -> None:
        self._expose = expose

    async def get(self, request: Request) -> Response:
        if not user_of(request).admin:
            raise Forbidden("the metrics are for admins")
        body, media_type = self._expose(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})


def no_metrics(accept: str) -> tuple[bytes, str]:
    """Of an app that was not told where its metrics are."""
    return b"", "text/plain; version=0.0.4; charset=utf-8"
