"""One stream of several runs: over HTTP/1.1 a browser has six connections to a server, and each takes one."""

from starlette.requests import Request
from starlette.responses import Response

from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS, NamedRunCursors, OwnRunCursors
from runstore.http.envelope import run_id_of
from runstore.http.errors import BadRequest
from runstore.http.requests import check_parameters, read_filter, read_ids, read_seq
from runstore.http.security.access import Access
from runstore.http.security.users import login_of
from runstore.http.streaming.following import Following


class StreamRoutes:
    """`/stream`"""

    def __init__(self, access: Access, following: Following) -> None:
        self._access = access
        self._following = following

    async def stream(self, request: Request) -> Response:
        check_parameters(request, ("run_id", "after", "lastEventId", "types", "ticket"), repeated=("run_id",))
        login, only, ids = login_of(request), read_filter(request), read_ids(request)
        if "run_id" in request.query_params:
            cursors = NamedRunCursors(await self._named(request))
            if ids:
                cursors.resume(ids[0])
            return await self._following.follow_several(login, cursors, only=only)
        own = OwnRunCursors.parse(ids[0]) if ids else None
        for run_id in own.open() if own is not None else ():
            await self._access.may_read(login, run_id)
        return await self._following.follow_own(login, own, only=only)

    async def _named(self, request: Request) -> dict[str, int]:
        """The runs of `?run_id=`, each with the seq after its `:` or 0, if they may be read."""
        names = request.query_params.getlist("run_id")
        if len(names) > MAX_FOLLOWED_RUNS:
            raise BadRequest(f"run_id may be given {MAX_FOLLOWED_RUNS} times", code="invalid_parameter")
        seqs = {}
        for name in names:
            run_id = await self._access.may_read(login_of(request), run_id_of(name))
            seq = read_seq(name.partition(":")[2] or "0")
            if run_id in seqs:
                raise BadRequest(f"run_id names run {run_id} twice", code="invalid_parameter")
            seqs[run_id] = seq
        return seqs
