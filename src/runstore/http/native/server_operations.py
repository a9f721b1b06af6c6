"""What the routes about the server itself answer: its health, its numbers, the document."""

from runstore.http.errors import Forbidden
from runstore.http.native.health import Health
from runstore.http.native.workers import WorkerPage
from runstore.http.operations import ETAG, NOT_MODIFIED, TEXT, Answer, Operation, Operations, Parameter, json

SERVER_OPERATIONS: Operations = {
    ("GET", "/workers"): Operation(
        id="list_workers",
        summary="Who runs the agents of this database, oldest first, for admins",
        answers={200: json("the workers", WorkerPage)},
        problems=(Forbidden,),
    ),
    ("GET", "/healthz"): Operation(
        id="check_health",
        summary="The process lives",
        answers={200: json("it does", Health)},
        strict=False,
    ),
    ("GET", "/readyz"): Operation(
        id="check_readiness",
        summary="The log takes writes",
        answers={200: json("it does", Health)},
        problems=((503, "not_ready"),),
        strict=False,
    ),
    ("GET", "/metrics"): Operation(
        id="read_metrics",
        summary="Numbers for Prometheus, in its text format or in OpenMetrics, for admins",
        answers={
            200: Answer(
                description="the metrics",
                content={"text/plain": TEXT, "application/openmetrics-text": TEXT},
                headers={"Cache-Control": {"const": "no-store"}},
            )
        },
        problems=(Forbidden,),
        strict=False,
    ),
    ("GET", "/openapi.json"): Operation(
        id="describe_api",
        summary="This document",
        parameters=(Parameter("If-None-Match", TEXT, "the ETag of an earlier answer", "header"),),
        answers={200: json("it", {"type": "object"}, ETAG), 304: NOT_MODIFIED},
    ),
}
