"""Tickets for one run's stream."""

from typing import Annotated
from urllib.parse import quote

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from runstore.core.codec import timestamp
from runstore.http.access import Access
from runstore.http.fields import Time
from runstore.http.json import json_response
from runstore.http.known_keys import now_ms
from runstore.http.requests import check_parameters, read_body
from runstore.http.signing import Ticket, TicketSigner
from runstore.http.users import login_of
from runstore.store import RunStore

TICKET_TTL_S = 3_600  # unless the request asks for less or more: an EventSource reconnects with what it has
MAX_TICKET_TTL_S = 24 * 3_600


class TicketBody(Struct, frozen=True, forbid_unknown_fields=True):
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_TICKET_TTL_S)] = TICKET_TTL_S


class TicketAnswer(Struct, frozen=True):
    """`url`: the run's stream, with the ticket in it."""

    ticket: str
    expires_at: Time
    url: str


class TicketRoutes:
    """`/runs/{run_id}/ticket`"""

    def __init__(self, store: RunStore, access: Access, signer: TicketSigner) -> None:
        self._store = store
        self._access = access
        self._signer = signer

    async def create(self, request: Request) -> Response:
        check_parameters(request, ())
        run_id = await self._access.readable(request)
        body = await read_body(request, TicketBody, optional=True)
        await self._store.head(run_id)
        login = login_of(request)
        ticket = Ticket(
            run_id=run_id,
            user_id=login.user.user_id,
            key_id=login.key_id,
            expires_at=now_ms() + body.ttl_s * 1_000,
        )
        text = self._signer.sign(ticket)
        url = f"{request.scope.get('root_path', '')}/runs/{run_id}/stream?ticket={quote(text)}"
        answer = TicketAnswer(text, timestamp(ticket.expires_at), url)
        return json_response(answer, 201, {"Cache-Control": "no-store"})
