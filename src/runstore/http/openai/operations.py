"""What the routes below `/v1` take and answer."""

from runstore.core.events import STRATEGIES, SUPERSEDED
from runstore.core.names import MAX_NAME
from runstore.http.openai.chat import DEFAULT_STRATEGY, ON_DISCONNECT
from runstore.http.openai.objects import (
    EITHER_MESSAGES_OR_PROMPT,
    ChatBody,
    Chunk,
    Completion,
    ErrorResponse,
    Model,
    ModelList,
)  # fmt: skip
from runstore.http.openai.stream import DONE, SERVER_STOPPING, STOPPED
from runstore.http.openapi.schemas import (
    FROM_HEADER,
    JSON,
    OF_A_START,
    RUN_HEADER,
    START_HEADERS,
    TEXT,
    component,
    json,
    within,
)
from runstore.http.operations import Answer, Operation, Operations, Parameter, Problem, Schema
from runstore.http.requests import Body
from runstore.http.streaming.sse import MEDIA_TYPE as SSE

CHUNKS: Schema = {  # see STREAM
    "type": "object",
    "description": "One server-sent event of a chat completion. A line `:` is a heartbeat.",
    "properties": {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "the seq of the run's event"},
        "data": {
            "type": "string",
            "anyOf": [
                within(component(Chunk)),
                {**within(component(ErrorResponse)), "description": "the run did not succeed: the last one"},
                {"const": DONE.decode(), "description": "the last one, if the run succeeded"},
            ],
        },
    },
    "required": ["data"],
}

CHAT_HEADERS = (
    Parameter(
        "X-Session-Id",
        {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
        "the session, in UTF-8; without it the request touches no other",
        "header",
    ),
    Parameter(
        "X-Multitask-Strategy",
        {"enum": list(STRATEGIES), "default": DEFAULT_STRATEGY},
        "what to do about a run of the session that has not ended",
        "header",
    ),
    Parameter(
        "X-On-Disconnect",
        {"enum": list(ON_DISCONNECT), "default": "cancel"},
        "what becomes of the run when the client goes",
        "header",
    ),
)
MODEL = Parameter("model", TEXT, "an agent's name", "path")
NO_SUCH_MODEL: Problem = (404, "model_not_found")

CHAT_OPERATIONS: Operations = {
    ("POST", "/v1/chat/completions"): Operation(
        id="create_chat_completion",
        summary="OpenAI's chat completions: start a run and follow it, or wait for its answer",
        parameters=(*CHAT_HEADERS, *START_HEADERS),
        body=Body(ChatBody, EITHER_MESSAGES_OR_PROMPT, any_type=True),
        answers={
            200: Answer(
                description="what the run came to; chunks as they come with `stream`",
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
            (500, None),
            SERVER_STOPPING[:2],
        ),
    ),
    ("GET", "/v1/models"): Operation(
        id="list_models",
        summary="The agents as OpenAI's models",
        answers={200: json("all of them", ModelList)},
    ),
    ("GET", "/v1/models/{model}"): Operation(
        id="get_model",
        summary="One agent as a model",
        parameters=(MODEL,),
        answers={200: json("the model", Model)},
        problems=(NO_SUCH_MODEL,),
    ),
}
