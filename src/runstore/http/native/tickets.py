"""Tickets for streams."""

from typing import Annotated, Literal
from urllib.parse import quote

from msgspec import Meta, Struct
from starlette.responses import Response

from runstore.core import errors
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS
from runstore.core.times import now_ms, timestamp
from runstore.http.bodies import Body
from runstore.http.errors import BadRequest, Forbidden
from runstore.http.json import RunId, Time, json_response
from runstore.http.operations import Call, Operation
from runstore.http.schemas import RUN_ID, json
from runstore.http.security.access import Access
from runstore.http.security.signing import (
    Ticket,
    TicketScope,
    TicketSigner,
    answers_of,
    of_run,
    of_runs,
)
from runstore.store.runs import RunStore

TICKET_TTL_S = 3_600  # seconds, by default: an EventSource reconnects with the same URL
MAX_TICKET_TTL_S = 24 * 3_600


class TicketBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`scope`: `answer` opens the run's questions instead of its stream, to read and to answer them."""

    scope: Literal["stream", "answer"] = "stream"
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_TICKET_TTL_S)] = TICKET_TTL_S


class SeveralBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`run_ids`: in the order in which the stream will name them; all of the user's own runs if not given."""

    run_ids: (
        Annotated[
            list[RunId],
            Meta(min_length=1, max_length=MAX_FOLLOWED_RUNS, extra_json_schema={"uniqueItems": True}),
        ]
        | None
    ) = None
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_TICKET_TTL_S)] = TICKET_TTL_S


class TicketAnswer(Struct, frozen=True):
    """`url`: the stream, or the run's questions, with the ticket in it."""

    ticket: str
    expires_at: Time
    url: str


CREATED = json("the ticket", TicketAnswer, {"Cache-Control": {"const": "no-store"}})


class TicketRoutes:
    """`/runs/{run_id}/ticket` and `/stream/ticket`"""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access, signer: TicketSigner) -> None:
        self._store = store
        self._access = access
        self._signer = signer

    @Operation(
        "POST",
        "/runs/{run_id}/ticket",
        parameters=(RUN_ID,),
        body=Body(TicketBody, optional=True),
        answers={201: CREATED},
        reads=True,
    )
    async def create_ticket(self, call: Call[TicketBody]) -> Response:
        """A ticket for the run's stream, or to answer its questions, for clients that cannot send headers."""
        run_id = await self._access.readable(call.request, "ticket")
        body = await call.body()
        await self._store.head(run_id)
        if body.scope == "answer":
            await self._access.may_answer(call.login, run_id)
            return self._answer(call, answers_of(run_id), f"/runs/{run_id}/inputs?", body.ttl_s)
        return self._answer(call, of_run(run_id), f"/runs/{run_id}/stream?", body.ttl_s)

    @Operation(
        "POST",
        "/stream/ticket",
        body=Body(SeveralBody, optional=True),
        answers={201: CREATED},
        reads=True,
        problems=(errors.RunNotFound, Forbidden),
    )
    async def create_streams_ticket(self, call: Call[SeveralBody]) -> Response:
        """A ticket for a stream of several runs."""
        body, login = await call.body(), call.login
        run_ids = [await self._access.may_read(login, run_id, "ticket") for run_id in body.run_ids or ()]
        if len(set(run_ids)) < len(run_ids):
            raise BadRequest("run_ids names a run twice", code="invalid_body", field="$.run_ids")
        query = "".join(f"run_id={run_id}&" for run_id in run_ids)
        return self._answer(call, of_runs(run_ids), f"/stream?{query}", body.ttl_s)

    def _answer(self, call: Call[object], scope: TicketScope, target: str, ttl_s: int) -> Response:
        login = call.login
        ticket = Ticket(
            run_id=scope.name,
            user_id=login.user.user_id,
            key_id=login.key_id,
            expires_at=now_ms() + ttl_s * 1_000,
        )
        text = self._signer.sign(ticket)
        url = f"{call.request.scope.get('root_path', '')}{target}ticket={quote(text)}"
        answer = TicketAnswer(text, timestamp(ticket.expires_at), url)
        return json_response(answer, 201, {"Cache-Control": "no-store"})
