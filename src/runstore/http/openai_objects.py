"""The objects of OpenAI's chat completions (https://platform.openai.com/docs/api-reference/chat), as structs.

What is not named here is ignored in a request, and not there in an answer.
"""

import re
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from runstore.core.run import Run

FinishReason = Literal["stop", "length", "content_filter"]
FINISH_REASONS: dict[str, FinishReason] = {
    "max_tokens": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
DATA_URL = re.compile(r"data:image/(png|jpeg|gif|webp);base64,([A-Za-z0-9+/]+={0,2})")


# Requests.


class TextPart(Struct, frozen=True, tag="text"):
    text: str


class RefusalPart(Struct, frozen=True, tag="refusal"):
    refusal: str


class ImageUrl(Struct, frozen=True):
    url: Annotated[str, Meta(extra_json_schema={"pattern": f"^{DATA_URL.pattern}$"})]


class ImagePart(Struct, frozen=True, tag="image_url"):
    image_url: ImageUrl


class FunctionCall(Struct, frozen=True):
    name: str
    arguments: str = "{}"


class ToolCall(Struct, frozen=True):
    id: str
    function: FunctionCall


class ChatMessage(Struct, frozen=True):
    """One message of the client's history."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | RefusalPart | ImagePart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class ChatBody(Struct, frozen=True):
    """`POST /v1/chat/completions`: `messages`, or a `prompt` that goes on with the session's conversation."""

    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = None


# What `chat_input` asks for, as far as a JSON Schema can say it.
EITHER_MESSAGES_OR_PROMPT = Meta(
    extra_json_schema={
        "oneOf": [
            {
                "required": ["messages"],
                "properties": {"messages": {"type": "array", "minItems": 1}, "prompt": {"type": "null"}},
            },
            {
                "required": ["prompt"],
                "properties": {"prompt": {"type": "string", "minLength": 1}, "messages": {"type": "null"}},
            },
        ]
    }
)


# Answers. `object` says what each of them is.


class Delta(Struct, frozen=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Struct, frozen=True):
    delta: Delta
    index: int = 0
    finish_reason: FinishReason | None = None


class CompletionUsage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Chunk(Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    """`discard_after_seq` is ours: a new attempt says again what came after the chunk with this id."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | UnsetType | None = UNSET
    discard_after_seq: int | UnsetType = UNSET


class CompletionMessage(Struct, frozen=True):
    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(Struct, frozen=True):
    message: CompletionMessage
    finish_reason: FinishReason
    index: int = 0
    logprobs: None = None


class Completion(Struct, frozen=True, tag_field="object", tag="chat.completion"):
    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage


class Model(Struct, frozen=True, tag_field="object", tag="model"):
    """An agent, as a client of models sees it."""

    id: str
    created: int = 0  # an agent is as old as its configuration, which is not told
    owned_by: str = "runstore"


class ModelList(Struct, frozen=True, tag_field="object", tag="list"):
    data: list[Model]


class ErrorObject(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(Struct, frozen=True):
    """Whatever went wrong, as OpenAI's clients expect it."""

    error: ErrorObject


def completion(run: Run) -> Completion:
    """What a run that succeeded came to."""
    result = run.result or {}
    choice = Choice(CompletionMessage(str(result.get("text", ""))), finish_reason(result))
    return Completion(
        completion_id(run), run.created_at // 1000, run.agent_name, [choice], usage_of(run.usage)
    )


def completion_id(run: Run) -> str:
    return f"chatcmpl-{run.run_id}"


def finish_reason(result: dict[str, Any]) -> FinishReason:
    return FINISH_REASONS.get(str(result.get("stop_reason")), "stop")


def usage_of(usage: dict[str, int]) -> CompletionUsage:
    counts = [usage.get(f"{kind}_tokens", 0) for kind in ("input", "output", "total")]
    return CompletionUsage(*counts)


def error_object(status: int, code: str, message: str, param: str | None = None) -> ErrorResponse:
    """OpenAI's error object, with our codes."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorResponse(ErrorObject(message, kind, param, code))


ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
