"""Requests of runs for a person's input: `/runs/{run_id}/inputs`."""

from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.responses import Response

from runstore.core import errors
from runstore.core.content import ContentBlocks, to_json
from runstore.core.events import InputKind
from runstore.core.inputs import Input
from runstore.core.times import timestamp
from runstore.http.bodies import Body
from runstore.http.json import RunId, Seq, Time, json_response
from runstore.http.native.records import RunRecord, record_response
from runstore.http.operations import Call, Operation
from runstore.http.query import Query, cursor, limit
from runstore.http.requests import Parameter, read_cursor
from runstore.http.schemas import RUN_ID, json
from runstore.http.security.access import Access
from runstore.http.security.signing import answers_of
from runstore.store.runs import RunStore

MAX_PAGE = 100  # requests of one page

REQUEST_ID = Parameter(
    "request_id", {"type": "string", "minLength": 1, "maxLength": 64}, "the request", "path"
)


class InputsQuery(Query):
    """The parameters of a page."""

    after = cursor("the `next` of an earlier page")
    limit = limit(MAX_PAGE, MAX_PAGE)


class AnswerBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`answer`: any JSON but null, within the request's schema."""

    answer: Annotated[Any, Meta(extra_json_schema={"not": {"type": "null"}})]


class AddBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A message: text, which is not empty, or content blocks."""

    content: Annotated[str, Meta(min_length=1)] | ContentBlocks


class Added(Struct, frozen=True):
    """`last_seq`: the seq of the message."""

    run_id: RunId
    last_seq: Seq


class InputRecord(Struct, frozen=True):
    """A request for input as the API shows it.

    `status`: `open`, `answered` or `closed`: the run has ended, or is to stop, without an answer.
    """

    request_id: str
    seq: Seq
    status: Annotated[str, Meta(extra_json_schema={"enum": ["open", "answered", "closed"]})]
    kind: InputKind
    agent: str
    call_id: str | None
    prompt: str
    data: Any
    schema: dict[str, Any] | None
    tool: str | None
    tool_use_id: str | None
    input: Any
    asked_at: Time
    expires_at: Time | None
    default: Any
    answer: Any
    answered_by: str | None
    answered_at: Time | None


class InputPage(Struct, frozen=True):
    """Requests in the order in which they were asked."""

    data: list[InputRecord]
    next: Seq | None


class InputRoutes:
    """`/runs/{run_id}/inputs`"""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access) -> None:
        self._store = store
        self._access = access

    @Operation(
        "GET",
        "/runs/{run_id}/inputs",
        parameters=(RUN_ID,),
        query=InputsQuery,
        answers={200: json("a page of requests", InputPage)},
        problems=(errors.InvalidCursor,),
        ticket=lambda path, query: answers_of(path["run_id"].lower()),
    )
    async def list_inputs(self, call: Call[InputsQuery]) -> Response:
        """The requests of a run for a person's input."""
        after = read_cursor(call.request, call.query.after)
        run_id, head = await self._access.read_head(call.request, "record")
        page = await self._store.inputs.page(run_id, after=after, limit=call.query.limit)
        open = not (head.closed or head.cancel_requested)
        data = [_record(each, open=open) for each in page.inputs]
        return json_response(InputPage(data, page.next))

    @Operation(
        "POST",
        "/runs/{run_id}/inputs/{request_id}",
        parameters=(RUN_ID, REQUEST_ID),
        body=Body(AnswerBody),
        answers={200: json("the run, with this answer", RunRecord)},
        problems=(
            errors.InputNotFound,
            errors.InputClosed,
            errors.InvalidAnswer,
            errors.InvalidEvent,
            errors.EventTooLarge,
            errors.TooLarge,
        ),
        ticket=lambda path, query: answers_of(path["run_id"].lower()),
    )
    async def answer_input(self, call: Call[AnswerBody]) -> Response:
        """Answer a request of a run. The same answer again changes nothing."""
        run_id = await self._access.answerable(call.request)
        head = await self._store.head(run_id)
        body = await call.body()
        request_id = call.request.path_params["request_id"]
        await self._store.inputs.answer(run_id, head, request_id, body.answer, by=call.login.actor)
        return record_response(await self._store.get(run_id))

    @Operation(
        "POST",
        "/runs/{run_id}/inputs",
        parameters=(RUN_ID,),
        body=Body(AddBody),
        answers={201: json("the message is stored", Added)},
        problems=(
            errors.InvalidEvent,
            errors.RunClosed,
            errors.InputClosed,
            errors.EventTooLarge,
            errors.TooLarge,
        ),
    )
    async def add_input(self, call: Call[AddBody]) -> Response:
        """Add a message to a run under way; its agent gets it before its next model call."""
        run_id = await self._access.changeable(call.request)
        body = await call.body()
        last_seq = await self._store.add_input(run_id, to_json(body.content), by=call.login.actor)
        return json_response(Added(run_id, last_seq), 201)


def _record(input: Input, *, open: bool) -> InputRecord:
    request, given = input.request, input.given
    return InputRecord(
        request_id=request.request_id,
        seq=input.seq,
        status="answered" if given is not None else "open" if open else "closed",
        kind=request.kind,
        agent=request.agent,
        call_id=request.call_id,
        prompt=request.prompt,
        data=request.data,
        schema=request.schema,
        tool=request.tool,
        tool_use_id=request.tool_use_id,
        input=request.input,
        asked_at=timestamp(input.at),
        expires_at=None if request.expires_at is None else timestamp(request.expires_at),
        default=request.default,
        answer=None if given is None else given.answer,
        answered_by=None if given is None else given.by,
        answered_at=None if input.given_at is None else timestamp(input.given_at),
    )
