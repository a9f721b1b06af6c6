"""One stream of several runs: over HTTP/1.1 a browser has six connections to a server, and each takes one."""

from starlette.responses import Response

from runstore.core import errors
from runstore.core.ids import UUID_TEXT
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS, NamedRunCursors, OwnRunCursors
from runstore.http.errors import BadRequest, Forbidden
from runstore.http.following import RunStreams
from runstore.http.native.events import TYPES
from runstore.http.operations import Call, Operation
from runstore.http.query import Query, QueryParameter, Text, last_event_id
from runstore.http.requests import Parameter, read_last_event_id, read_seq
from runstore.http.schemas import NOTHING_LEFT, SEVERAL, TEXT, TOO_MANY_STREAMS, stream
from runstore.http.security.access import Access
from runstore.http.security.signing import of_runs, run_id_of


class RunsStreamQuery(Query):
    """Which runs are followed."""

    run_id = QueryParameter[list[str]](
        {
            "type": "array",
            "maxItems": MAX_FOLLOWED_RUNS,
            "uniqueItems": True,
            "items": {"type": "string", "pattern": f"^{UUID_TEXT.pattern}(:[0-9]{{1,18}})?$"},
        },
        "a run, or `RUN_ID:SEQ` for its events after a seq; not given: all of the user's own runs",
        list,
        default=[],
        repeated=True,
    )
    after = Text(TEXT, "the `id` of an event of such a stream")
    last_event_id = last_event_id(TEXT, "the same, for polyfills", str)
    types = TYPES


class StreamRoutes:
    """`/stream`"""

    tag = "runs"

    def __init__(self, access: Access, following: RunStreams) -> None:
        self._access = access
        self._following = following

    @Operation(
        "GET",
        "/stream",
        parameters=(Parameter("Last-Event-ID", TEXT, "the same; takes precedence", "header"),),
        query=RunsStreamQuery,
        answers={
            200: stream("all events after the cursor, until all named runs have ended", schema=SEVERAL),
            204: NOTHING_LEFT,
        },
        problems=(errors.InvalidCursor, errors.RunNotFound, Forbidden, TOO_MANY_STREAMS),
        ticket=lambda path, query: of_runs([run_id_of(text) for text in query.getlist("run_id")]),
    )
    async def follow_runs(self, call: Call[RunsStreamQuery]) -> Response:
        """Follow several runs, or all of the user's own runs, in one stream."""
        login, query, only = call.login, call.query, call.query.types
        given = (read_last_event_id(call.request), query.last_event_id, query.after)
        last = next((id for id in given if id is not None), None)
        if query.run_id:
            cursors = NamedRunCursors(await self._named(call))
            if last is not None:
                cursors.resume(last)
            return await self._following.follow_several(login, cursors, only=only)
        own = OwnRunCursors.parse(last) if last is not None else None
        for run_id in own.open() if own is not None else ():
            await self._access.may_read(login, run_id, "stream")
        return await self._following.follow_own(login, own, only=only)

    async def _named(self, call: Call[RunsStreamQuery]) -> dict[str, int]:
        """The runs of `?run_id=`, each with the seq after its `:` or 0; the user may read all of them."""
        names = call.query.run_id
        if len(names) > MAX_FOLLOWED_RUNS:
            raise BadRequest(
                f"at most {MAX_FOLLOWED_RUNS} values of run_id are allowed", code="invalid_parameter"
            )
        seqs = {}
        for name in names:
            run_id = await self._access.may_read(call.login, run_id_of(name), "stream")
            seq = read_seq(name.partition(":")[2] or "0")
            if run_id in seqs:
                raise BadRequest(f"run_id names run {run_id} twice", code="invalid_parameter")
            seqs[run_id] = seq
        return seqs
