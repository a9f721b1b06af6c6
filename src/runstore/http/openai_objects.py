"""The objects of OpenAI's chat completions (https://platform.openai.com/docs/api-reference/chat), as structs.

What is not named here is ignored in a request, and not there in an answer.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from runstore.core.run import Run

FINISH_REASONS = {
    "max_tokens": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}


# Requests.


class TextPart(Struct, frozen=True, tag="text"):
    text: str


class RefusalPart(Struct, frozen=True, tag="refusal"):
    refusal: str


class ImageUrl(Struct, frozen=True):
    url: str


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


# Answers.


class Delta(Struct, frozen=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class ChunkChoice(Struct, frozen=True):
    delta: Delta
    index: int = 0
    finish_reason: str | None = None


class Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Chunk(Struct, frozen=True):
    """`discard_after_seq` is ours: a new attempt says again what came after the chunk with this id."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: str = "chat.completion.chunk"
    usage: Usage | UnsetType | None = UNSET
    discard_after_seq: int | UnsetType = UNSET


class CompletionMessage(Struct, frozen=True):
    content: str
    role: str = "assistant"
    refusal: None = None


class Choice(Struct, frozen=True):
    message: CompletionMessage
    finish_reason: str
    index: int = 0
    logprobs: None = None


class Completion(Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: str = "chat.completion"


class Model(Struct, frozen=True):
    """An agent, as a client of models sees it."""

    id: str
    object: str = "model"
    created: int = 0  # an agent is as old as its configuration, which is not told
    owned_by: str = "runstore"


class ModelList(Struct, frozen=True):
    data: list[Model]
    object: str = "list"


class ErrorObject(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Struct, frozen=True):
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


def finish_reason(result: dict[str, Any]) -> str:
    return FINISH_REASONS.get(str(result.get("stop_reason")), "stop")


def usage_of(usage: dict[str, int]) -> Usage:
    return Usage(usage.get("input_tokens", 0), usage.get("output_tokens", 0), usage.get("total_tokens", 0))


def error_object(status: int, code: str, message: str, param: str | None = None) -> ErrorAnswer:
    """OpenAI's error object, with our codes."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorAnswer(ErrorObject(message, kind, param, code))


ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
