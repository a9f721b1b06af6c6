"""The requests to a run's models."""

from starlette.responses import Response

from runstore.core import errors
from runstore.core.model_requests import ModelRequest, RequestPage
from runstore.http.json import json_response
from runstore.http.operations import Call, Operation
from runstore.http.query import Query, limit, number
from runstore.http.requests import MAX_CURSOR, Parameter, is_number, whole
from runstore.http.schemas import RUN_ID, SEQ, json
from runstore.http.security.access import Access
from runstore.store.request_reads import MAX_LISTED
from runstore.store.runs import RunStore

N = Parameter("n", SEQ, "the number of the request in its run", "path")


class RequestsQuery(Query):
    """The parameters of a page."""

    after = number(whole(0, MAX_CURSOR), "the `next` of an earlier page")
    limit = limit(MAX_LISTED, 100)
    seq = number(SEQ, "only the call whose `llm.request` has this seq")


class RequestRoutes:
    """The routes below `/runs/{run_id}/requests`."""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access) -> None:
        self._store = store
        self._access = access

    @Operation(
        "GET",
        "/runs/{run_id}/requests",
        parameters=(RUN_ID,),
        query=RequestsQuery,
        answers={200: json("a page of the run's model calls", RequestPage)},
    )
    async def list_requests(self, call: Call[RequestsQuery]) -> Response:
        """A run's model calls, in order."""
        query = call.query
        run_id, _ = await self._access.read_head(call.request, "events")
        return json_response(
            await self._store.requests(run_id, after=query.after or 0, limit=query.limit, seq=query.seq)
        )

    @Operation(
        "GET",
        "/runs/{run_id}/requests/{n}",
        parameters=(RUN_ID, N),
        answers={200: json("the request, whole", ModelRequest)},
        problems=(errors.RequestNotFound, errors.TooLarge),
    )
    async def get_request(self, call: Call[None]) -> Response:
        """One request to a model, exactly."""
        run_id, _ = await self._access.read_head(call.request, "events")
        reads_session = await self._access.reads_session(call.login, run_id)
        n = read_n(call.request.path_params["n"])
        return await self._store.request(run_id, n, reads_session=reads_session, answer=json_response)


def read_n(text: str) -> int:
    """The number of a request in a path.

    Raises:
        RequestNotFound: it is no number.
    """
    if not is_number(text):
        raise errors.RequestNotFound(f"a request's number is 1, 2, 3, …, not {text[:100]!r}")
    return int(text)
