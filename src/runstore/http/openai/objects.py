"""The objects of OpenAI's chat completions (https://platform.openai.com/docs/api-reference/chat), as structs.

Unknown fields of a request are ignored; other fields of OpenAI's answers are missing.
"""

from typing import Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from runstore.core.run import Run
from runstore.http.errors import ErrorDetail, ErrorForm

FinishReason = Literal["stop", "length", "content_filter"]
FINISH_REASONS: dict[str, FinishReason] = {  # the keys are stop reasons of strands and of providers
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "limit_output_tokens": "length",
    "limit_total_tokens": "length",
    "limit_turns": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "refusal": "content_filter",
}


# Requests.


class TextPart(Struct, frozen=True, tag="text"):
    text: str | None = None


class InputTextPart(Struct, frozen=True, tag="input_text"):
    """A text part of the Responses API, from clients that use both APIs."""

    text: str | None = None


class OutputTextPart(Struct, frozen=True, tag="output_text"):
    """A text part of an answer in the Responses API."""

    text: str | None = None


class RefusalPart(Struct, frozen=True, tag="refusal"):
    refusal: str | None = None


class ImageUrl(Struct, frozen=True):
    """A data: URL of a png, jpeg, gif or webp in base64."""

    url: str


class ImagePart(Struct, frozen=True, tag="image_url"):
    image_url: str | ImageUrl


class InputImagePart(Struct, frozen=True, tag="input_image"):
    """An image part of the Responses API."""

    image_url: str | ImageUrl


class Base64Source(Struct, frozen=True, tag="base64"):
    media_type: str
    data: str


class UrlSource(Struct, frozen=True, tag="url"):
    url: str


class ImageBlockPart(Struct, frozen=True, tag="image"):
    """An image in Anthropic's form."""

    source: Base64Source | UrlSource


class ThinkingPart(Struct, frozen=True, tag="thinking"):
    """A model's reasoning in an earlier turn; the agent does not get it."""


class RedactedThinkingPart(Struct, frozen=True, tag="redacted_thinking"):
    """A model's redacted reasoning; the agent does not get it."""


class ReasoningPart(Struct, frozen=True, tag="reasoning"):
    """A model's reasoning; the agent does not get it."""


class ReasoningContentPart(Struct, frozen=True, tag="reasoning_content"):
    """A model's reasoning; the agent does not get it."""


class ToolUsePart(Struct, frozen=True, tag="tool_use"):
    """A tool call in Anthropic's form; it counts if it has a result, and `tool_calls` does not hold it."""

    id: str | None = None
    name: str | None = None
    input: str | dict[str, Any] | list[Any] | None = None


ResultPart = TextPart | ImagePart | InputImagePart | ImageBlockPart


class ToolResultPart(Struct, frozen=True, tag="tool_result"):
    """The result of a tool call in Anthropic's form."""

    tool_use_id: str | None = None
    content: str | list[str | ResultPart | None] | ResultPart | None = None
    is_error: bool | None = None


class ThinkPart(Struct, frozen=True, tag="think"):
    """Reasoning in LibreChat's form."""


class ToolCallPart(Struct, frozen=True, tag="tool_call"):
    """A tool call in LibreChat's form."""


class SdkToolCallPart(Struct, frozen=True, tag="tool-call"):
    """A tool call in the form of Vercel's AI SDK."""


class ServerToolUsePart(Struct, frozen=True, tag="server_tool_use"):
    """A call of a tool that the provider runs itself."""


class InputDeltaPart(Struct, frozen=True, tag="input_json_delta"):
    """A piece of a tool call's input, which LangChain leaves in messages collected from a stream."""


Part = (
    TextPart
    | InputTextPart
    | OutputTextPart
    | RefusalPart
    | ImagePart
    | InputImagePart
    | ImageBlockPart
    | ThinkingPart
    | RedactedThinkingPart
    | ReasoningPart
    | ReasoningContentPart
    | ToolUsePart
    | ToolResultPart
    | ThinkPart
    | ToolCallPart
    | SdkToolCallPart
    | ServerToolUsePart
    | InputDeltaPart
)


class FunctionCall(Struct, frozen=True):
    """`name` is missing where a stream was cut off before it."""

    name: str | None = None
    arguments: str | dict[str, Any] | list[Any] | None = None


class CustomCall(Struct, frozen=True):
    """`name` is missing where a stream was cut off before it."""

    name: str | None = None
    input: str | None = None


class ToolCall(Struct, frozen=True):
    """A call of a function, or of a custom tool, whose input is text.

    `name`, with `args` or `arguments`: a function without the object `function` around them, as LangChain
    keeps it.
    """

    id: str | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None
    name: str | None = None
    args: str | dict[str, Any] | list[Any] | None = None
    arguments: str | dict[str, Any] | list[Any] | None = None

    @property
    def called(self) -> FunctionCall | CustomCall | None:
        """The call of a function or of a custom tool."""
        bare = FunctionCall(self.name, self.args or self.arguments) if self.name else None
        return self.function or self.custom or bare


class ChatMessage(Struct, frozen=True):
    """One message of the client's history."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[str | Part | None] | Part | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall | None] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None
    name: str | None = None
    tool_name: str | None = None
    status: str | None = None


MENDED_FIELDS = {  # fields of a message, with the treatment of a value of a wrong type
    "content": "JSON of a tool, as text; an assistant's is left out; a part without `type` is text",
    "refusal": "left out",
    "tool_calls": "a call, or left out",
    "function_call": "left out",
    "tool_call_id": "a number is text; else left out",
    "name": "a number is text; else left out",
    "tool_name": "a number is text; else left out",
    "status": "left out",
}


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None


class ChatBody(Struct, frozen=True):
    """`POST /v1/chat/completions`: `messages`, or a `prompt` that continues the session's conversation."""

    messages: list[ChatMessage | None] | None = None
    prompt: str | None = None
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: dict[str, Any] | None = None


# The rules of `chat_input`, as far as a JSON Schema can express them.
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


# Answers. `object` is the type of each.


class Delta(Struct, frozen=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None


class ChunkChoice(Struct, frozen=True):
    delta: Delta
    index: int = 0
    finish_reason: FinishReason | None = None


class PromptDetails(Struct, frozen=True):
    cached_tokens: int


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int


class CompletionUsage(Struct, frozen=True):
    """The details are missing where their numbers are 0."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptDetails | UnsetType = UNSET
    completion_tokens_details: CompletionDetails | UnsetType = UNSET


class Chunk(Struct, frozen=True, tag_field="object", tag="chat.completion.chunk"):
    """`discard_after_seq` is an extension: a new attempt repeats the text after the chunk with this id."""

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
    reasoning_content: str | UnsetType = UNSET


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
    """An agent in the form of a model."""

    id: str
    created: int = 0  # the age of an agent is unknown
    owned_by: str = "runstore"


class ModelList(Struct, frozen=True, tag_field="object", tag="list"):
    data: list[Model]


class ErrorObject(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(Struct, frozen=True):
    """An error in the form that OpenAI's clients expect."""

    error: ErrorObject


def completion(run: Run, content: str, reasoning: str, finish_reason: FinishReason) -> Completion:
    """The completion of a run that has ended."""
    message = CompletionMessage(content, reasoning_content=reasoning or UNSET)
    choice = Choice(message, finish_reason)
    return Completion(
        completion_id(run), run.created_at // 1000, run.agent_name, [choice], usage_of(run.usage)
    )


def completion_id(run: Run) -> str:
    return f"chatcmpl-{run.run_id}"


def finish_reason(result: dict[str, Any]) -> FinishReason:
    return FINISH_REASONS.get(str(result.get("stop_reason")), "stop")


def usage_of(usage: dict[str, int]) -> CompletionUsage:
    inputs, outputs, total = [usage.get(f"{kind}_tokens", 0) for kind in ("input", "output", "total")]
    cached, reasoning = usage.get("cache_read_tokens"), usage.get("reasoning_tokens")
    return CompletionUsage(
        inputs,
        outputs,
        total,
        PromptDetails(cached) if cached else UNSET,
        CompletionDetails(reasoning) if reasoning else UNSET,
    )


def error_object(status: int, code: str, message: str, param: str | None = None) -> ErrorResponse:
    """OpenAI's error object, with runstore's codes."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorResponse(ErrorObject(message, kind, param, code))


def _write_error(status: int, error: ErrorDetail) -> ErrorResponse:
    path = error.field.removeprefix("$").removeprefix(".") if isinstance(error.field, str) else None
    return error_object(status, error.code, error.message, path or None)


NO_RETRY = {"X-Should-Retry": "false"}  # OpenAI's clients retry after 409 and 5xx without it
OPENAI_ERRORS = ErrorForm(ErrorResponse, _write_error, NO_RETRY)
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
