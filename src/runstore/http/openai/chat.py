"""Chat completions for OpenAI's clients. The request is the stream: when it ends, its run stops."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, get_args

from starlette.responses import Response

from runstore.core.errors import LogUnavailable
from runstore.core.events import STRATEGIES, SUPERSEDED, MultitaskStrategy
from runstore.core.names import MAX_NAME
from runstore.core.new_run import NewRun, RunOptions
from runstore.core.records import record_of
from runstore.core.run import Actor, Run
from runstore.feed.tail import Tail
from runstore.http.bodies import Bodies, Body
from runstore.http.errors import UNAVAILABLE, BadRequest, ErrorDetail
from runstore.http.json import json_response
from runstore.http.openai.answer import ANSWER_EVENTS, ChatAnswer
from runstore.http.openai.input import chat_input
from runstore.http.openai.mending import mended
from runstore.http.openai.objects import (
    EITHER_MESSAGES_OR_PROMPT,
    NO_RETRY,
    OPENAI_ERRORS,
    ChatBody,
    Completion,
    FinishReason,
    Model,
    ModelList,
    completion,
    finish_reason,
)  # fmt: skip
from runstore.http.openai.stream import (
    CHAT_EVENTS,
    CHUNKS,
    ENDING_EVENTS,
    INPUT_REQUIRED,
    MAX_TOKENS,
    SERVER_STOPPING,
    STOPPED,
    ChatChunks,
    ChatTail,
    StreamLines,
    ending_error,
    input_required,
)
from runstore.http.operations import Call, Operation, Problem, ResponseSpec
from runstore.http.requests import Parameter, read_header
from runstore.http.schemas import FROM_HEADER, JSON, OF_A_START, RUN_HEADER, START_HEADERS, TEXT, json
from runstore.http.streaming.sse import CLIENT_DISCONNECT, EventStream, OnDisconnect, cancel_run
from runstore.http.streaming.sse import MEDIA_TYPE as SSE
from runstore.http.streaming.subscribers import Subscribers
from runstore.http.streaming.watched import ClientGone, attended
from runstore.store.runs import RunStore

DEFAULT_MODEL = "demo"
MANY_MESSAGES = 100  # messages; a longer chat is read off the event loop
DEFAULT_STRATEGY: MultitaskStrategy = "interrupt"
MAX_ANSWER = 8 << 20  # characters of a whole answer, approximately; a longer one is cut, and says so
SESSION_ID = Parameter(
    "X-Session-Id",
    {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
    "the session, in UTF-8; without it the request belongs to no session",
    "header",
)
STRATEGY = Parameter(
    "X-Multitask-Strategy",
    {"enum": list(STRATEGIES), "default": DEFAULT_STRATEGY},
    "the strategy if the session has a run that has not ended",
    "header",
)
ON_DISCONNECT = Parameter(
    "X-On-Disconnect",
    {"enum": list(get_args(OnDisconnect)), "default": "cancel"},
    "whether the run goes on when the client disconnects",
    "header",
)
MODEL = Parameter("model", TEXT, "an agent's name", "path")
NO_SUCH_MODEL: Problem = (404, "model_not_found")


class ChatRoutes:
    """The routes below `/v1`."""

    tag = "chat"

    def __init__(self, store: RunStore, subscribers: Subscribers, bodies: Bodies) -> None:
        self._store = store
        self._bodies = bodies
        self._subscribers = subscribers

    # Clients add parameters to the query, as LibreChat's `?user=` and Azure's `?api-version=`. These are
    # ignored, as are unknown fields of a body.

    @Operation("GET", "/models", answers={200: json("all models", ModelList)}, strict=False)
    async def list_models(self, call: Call[None]) -> Response:
        """The agents as OpenAI's models."""
        return json_response(ModelList([Model(name) for name in self._models()]))

    @Operation(
        "GET",
        "/models/{model}",
        parameters=(MODEL,),
        answers={200: json("the model", Model)},
        problems=(NO_SUCH_MODEL,),
        strict=False,
    )
    async def get_model(self, call: Call[None]) -> Response:
        """One agent as a model."""
        name = call.request.path_params["model"]
        self._check_model(name)
        return json_response(Model(name))

    @Operation(
        "POST",
        "/chat/completions",
        parameters=(SESSION_ID, STRATEGY, ON_DISCONNECT, *START_HEADERS),
        body=Body(ChatBody, EITHER_MESSAGES_OR_PROMPT, any_type=True, mend=mended),
        strict=False,
        answers={
            200: ResponseSpec(
                description="the run's answer; with `stream` chunks as they arrive",
                content={JSON: Completion, SSE: CHUNKS},
                headers=RUN_HEADER,
                run_id=FROM_HEADER,
            )
        },
        problems=(
            *OF_A_START,
            NO_SUCH_MODEL,
            (400, "invalid_header"),
            (409, SUPERSEDED),
            (409, STOPPED),
            (409, INPUT_REQUIRED),
            (500, None),
            SERVER_STOPPING[:2],
        ),
    )
    async def create_chat_completion(self, call: Call[ChatBody]) -> Response:
        """OpenAI's chat completions: start a run and follow it, or wait for its answer."""
        continues = read_header(call.request, ON_DISCONNECT) == "continue"
        login = call.login
        with ExitStack() as resources:
            resources.enter_context(self._subscribers.of_user(login.user.user_id))  # before the run exists
            body = await call.body()
            new = await self._new_run(call, body)
            only = CHAT_EVENTS if body.stream else ENDING_EVENTS
            started, tail = await self._store.start_and_tail(new, resources, only=only)
            run = started.run
            resources.enter_context(self._subscribers.of_run(run.run_id))
            lines = StreamLines(run.run_id, run.session_id)
            lines.started()
            resources.callback(lines.ended)
            left = None if continues else partial(self._left, run, lines, login.actor)
            if not body.stream:
                return await self._complete(call, run, tail, lines, left)
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            frames = ChatTail(tail, ChatChunks(run, include_usage=usage, plain=True), lines).frames()
            return EventStream(frames, login, resources.pop_all(), {"X-Run-Id": run.run_id}, left=left)

    async def _new_run(self, call: Call[ChatBody], body: ChatBody) -> NewRun:
        agent = DEFAULT_MODEL if body.model is None else body.model
        session_id = read_header(call.request, SESSION_ID)
        strategy: Any = read_header(call.request, STRATEGY) or DEFAULT_STRATEGY
        self._check_model(agent)
        long = self._bodies.is_large(call.request) or len(body.messages or ()) > MANY_MESSAGES
        input = await self._bodies.beside(chat_input, body) if long else chat_input(body)
        options = RunOptions(session_id=session_id, metadata=body.metadata or {}, multitask_strategy=strategy)
        return call.new_run(agent, input, options, memory=body.prompt is not None)

    def _models(self) -> list[str]:
        """The agents that can chat; an agent that runs code takes no messages."""
        catalog = self._store.catalog
        return [name for name in catalog.names() if not catalog.spec(name).code]

    def _check_model(self, name: str) -> None:
        if name not in (models := self._models()):
            message = f"the model {name[:100]!r} does not exist; there are {', '.join(models)}"
            raise BadRequest(message, code="model_not_found", status=404, field="$.model")

    async def _left(self, run: Run, lines: StreamLines, by: Actor) -> None:
        lines.cancelled(CLIENT_DISCONNECT)
        await cancel_run(self._store, run.run_id, by)

    async def _complete(
        self,
        call: Call[ChatBody],
        run: Run,
        tail: Tail,
        lines: StreamLines,
        left: Callable[[], Awaitable[None]] | None,
    ) -> Response:
        """The whole answer, once the run has ended."""
        chunks = ChatChunks(run, plain=True)
        try:
            await attended(
                _exhaust(ChatTail(tail, chunks, lines)), call.login, call.request.receive, left=left
            )
        except ClientGone:
            return Response(status_code=204)  # the client has gone
        headers = {"X-Run-Id": run.run_id}
        try:
            found = (await self._store.get(run.run_id)).run
            if found.status == "success" or found.error_code == MAX_TOKENS:
                return json_response(await self._completion(found), headers=headers)
        except LogUnavailable as error:  # the same request again would start another run
            return OPENAI_ERRORS.response(503, ErrorDetail(error.code, UNAVAILABLE), {**headers, **NO_RETRY})
        otherwise = input_required(run) if chunks.asks else SERVER_STOPPING
        status, code, message = ending_error(found) if found.closed else otherwise
        return OPENAI_ERRORS.response(status, ErrorDetail(code, message), {**headers, **NO_RETRY})

    async def _completion(self, run: Run) -> Completion:
        """The outcome of a run, from its log."""
        result = run.result or {"stop_reason": MAX_TOKENS}
        answer, size = ChatAnswer(kept=True), 0
        async for page in self._store.pages(run.run_id, only=ANSWER_EVENTS):
            for event in page:
                record = record_of(event)
                if record.ends:
                    answer.end(record.seq, result)
                else:
                    answer.add(record)
                size += len(answer.content) + len(answer.reasoning)
            if size > MAX_ANSWER:
                result = {"stop_reason": MAX_TOKENS}
                break
        reason: FinishReason = "length" if answer.cut else finish_reason(result)
        return completion(run, *answer.whole, reason)


async def _exhaust(tail: ChatTail) -> None:
    async for _ in tail.frames():
        pass
