"""Tickets for streams."""

from typing import Annotated
from urllib.parse import quote

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from runstore.core.codec import timestamp
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS
from runstore.http.envelope import STREAM
from runstore.http.errors import BadRequest
from runstore.http.fields import RunId, Time
from runstore.http.json import json_response
from runstore.http.requests import check_parameters, read_body
from runstore.http.security.access import Access
from runstore.http.security.known_keys import now_ms
from runstore.http.security.signing import Ticket, TicketSigner, name_of
from runstore.http.security.users import login_of
from runstore.store.runs import RunStore

TICKET_TTL_S = 3_600  # unless the request asks for less or more: an EventSource reconnects with what it has
MAX_TICKET_TTL_S = 24 * 3_600


class TicketBody(Struct, frozen=True, forbid_unknown_fields=True):
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_TICKET_TTL_S)] = TICKET_TTL_S


class SeveralBody(Struct, frozen=True, forbid_unknown_fields=True):
    """For which runs, in the order in which the stream is asked for them; all of one's own if not given."""

    run_ids: (
        Annotated[
            list[RunId],
            Meta(min_length=1, max_length=MAX_FOLLOWED_RUNS, extra_json_schema={"uniqueItems": True}),
        ]
        | None
    ) = None
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_TICKET_TTL_S)] = TICKET_TTL_S


class TicketAnswer(Struct, frozen=True):
    """`url`: the stream, with the ticket in it."""

    ticket: str
    expires_at: Time
    url: str


class TicketRoutes:
    """`/runs/{run_id}/ticket` and `/stream/ticket`"""

    def __init__(self, store: RunStore, access: Access, signer: TicketSigner) -> None:
        self._store = store
        self._access = access
        self._signer = signer

    async def create(self, request: Request) -> Response:
        check_parameters(request, ())
        run_id = await self._access.readable(request)
        body = await read_body(request, TicketBody, optional=True)
        await self._store.head(run_id)
        return self._answer(request, run_id, f"/runs/{run_id}/stream?", body.ttl_s)

    async def create_for_several(self, request: Request) -> Response:
        check_parameters(request, ())
        body, login = await read_body(request, SeveralBody, optional=True), login_of(request)
        run_ids = [await self._access.may_read(login, run_id) for run_id in body.run_ids or ()]
        if len(set(run_ids)) < len(run_ids):
            raise BadRequest("run_ids names a run twice", code="invalid_body", field="$.run_ids")
        query = "".join(f"run_id={run_id}&" for run_id in run_ids)
        return self._answer(request, name_of(run_ids), f"{STREAM}?{query}", body.ttl_s)

    def _answer(self, request: Request, name: str, stream: str, ttl_s: int) -> Response:
        login = login_of(request)
        ticket = Ticket(
            run_id=name,
            user_id=login.user.user_id,
            key_id=login.key_id,
            expires_at=now_ms() + ttl_s * 1_000,
        )
        text = self._signer.sign(ticket)
        url = f"{request.scope.get('root_path', '')}{stream}ticket={quote(text)}"
        answer = TicketAnswer(text, timestamp(ticket.expires_at), url)
        return json_response(answer, 201, {"Cache-Control": "no-store"})
