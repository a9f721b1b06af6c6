"""Runs that begin with the conversation of another one."""

from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.responses import Response

from runstore.core import errors
from runstore.core.content import Input, to_json
from runstore.core.names import MAX_NAME
from runstore.core.new_run import NewRun
from runstore.http.bodies import Body
from runstore.http.errors import Forbidden
from runstore.http.json import RunId, Seq, json_response
from runstore.http.native.records import RunRecord, record
from runstore.http.operations import Call, Operation
from runstore.http.requests import read_idempotency_key, read_traceparent
from runstore.http.schemas import OF_A_START, RUN_ID, START_HEADERS, json
from runstore.http.security.access import Access
from runstore.store.forks import ForkOptions
from runstore.store.runs import RunStore

MAX_PROMPT = 1 << 20  # characters of a system prompt; the event bounds its bytes

Text = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class ForkBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`at`: a seq of the run, without it its last. `model`: the id of another model of the same provider.

    `input`: added to the conversation; without it the model answers again. `agent`: another agent.
    """

    at: Seq | None = None
    model: Text | None = None
    system_prompt: Annotated[str, Meta(max_length=MAX_PROMPT)] | None = None
    input: Input | None = None
    agent: Text | None = None


class ForkedRun(Struct, frozen=True):
    """The new run. `forked_at_seq`: the boundary that its conversation ends at."""

    run_id: RunId
    parent_run_id: RunId
    forked_at_seq: Seq
    run: RunRecord


class ForkRoutes:
    """The route `/runs/{run_id}/fork`."""

    tag = "runs"

    def __init__(self, store: RunStore, access: Access) -> None:
        self._store = store
        self._access = access

    @Operation(
        "POST",
        "/runs/{run_id}/fork",
        parameters=(RUN_ID, *START_HEADERS),
        body=Body(ForkBody, optional=True),
        answers={202: json("the fork is stored, and starts as soon as a slot is free", ForkedRun)},
        problems=(*OF_A_START, Forbidden, errors.AgentNotFound, errors.InvalidCursor, errors.InvalidQuery),
    )
    async def fork_run(self, call: Call[ForkBody]) -> Response:
        """Start a run that begins with the conversation of this one."""
        run_id = await self._access.readable(call.request, "events")
        body = await call.body()
        input: Any = None if body.input is None else to_json(body.input)
        options = ForkOptions(
            at=body.at, model=body.model, system_prompt=body.system_prompt, input=input, agent=body.agent
        )
        new = NewRun(
            agent="", input=None, user_id=call.user.user_id, key_id=call.login.key_id,
            idempotency_key=read_idempotency_key(call.request), traceparent=read_traceparent(call.request),
        )  # fmt: skip
        reads_session = await self._access.reads_session(call.login, run_id)
        fork = await self._store.fork(run_id, options, new, reads_session=reads_session)
        answer = ForkedRun(
            fork.started.run.run_id, run_id, fork.at, record(fork.started.run, fork.started.last_seq)
        )
        return json_response(answer, 202)
