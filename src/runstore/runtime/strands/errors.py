"""Maps errors of models and strands to codes that a person can act on. docs/how-to/models.md describes each.

Every provider's SDK has its own errors. None is imported here: the code follows from the error's HTTP status,
the provider's error type, the class name, or the cause.
"""

import re
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from strands.types.exceptions import (
    ContextWindowOverflowException,
    EventLoopException,
    MaxTokensReachedException,
    ModelThrottledException,
    StructuredOutputException,
)

from runstore.core.errors import AgentError, RunstoreError
from runstore.core.masking import without_keys
from runstore.runtime.user_code import MAX_WORDS, in_a_line, words_of

MAX_CAUSES = 10  # causes of an error to look at

CODES: dict[type[BaseException], str] = {
    ModelThrottledException: "model_throttled",
    ContextWindowOverflowException: "context_overflow",
    MaxTokensReachedException: "max_tokens",
    StructuredOutputException: "structured_output_failed",
}
# HTTP statuses. Any other 4xx is model_refused, every 5xx model_unavailable.
STATUS_CODES = {
    401: "model_auth",
    403: "model_auth",
    404: "model_not_found",
    408: "model_unavailable",
    424: "model_unavailable",  # Bedrock: the model failed
    429: "model_throttled",
}
# Providers' error types and codes, for errors in the middle of a stream, after its status was 200.
KIND_CODES = {
    "api_error": "model_unavailable",
    "authentication_error": "model_auth",
    "insufficient_quota": "model_throttled",
    "internalServerException": "model_unavailable",
    "invalid_api_key": "model_auth",
    "invalid_prompt": "model_refused",
    "invalid_request_error": "model_refused",
    "modelStreamErrorException": "model_unavailable",
    "modelTimeoutException": "model_unavailable",
    "model_not_found": "model_not_found",
    "not_found_error": "model_not_found",
    "overloaded_error": "model_unavailable",
    "permission_error": "model_auth",
    "rate_limit_error": "model_throttled",
    "rate_limit_exceeded": "model_throttled",
    "server_error": "model_unavailable",
    "serviceUnavailableException": "model_unavailable",
    "throttlingException": "model_throttled",
    "timeout_error": "model_unavailable",
    "validationException": "model_refused",
}
# Anthropic, Bedrock, Ollama; Anthropic; OpenAI; llama.cpp; xAI; vLLM; SGLang, OpenRouter; Groq, Cerebras;
# Kimi; MiniMax; LM Studio; GLM; TGI, Together; Gemini; Poolside; DashScope; GitHub; Cohere.
OVERFLOW = re.compile(
    r"(prompt|input) (is )?too long|exceed context limit|exceeds the context window|input tokens exceed"
    r"|exceed_context_size|exceeds the available context|maximum prompt length"
    r"|longer than the maximum model length|max(_completion)?_tokens must be at least 1, got -"
    r"|maximum context length|reduce the length of the (input )?(messages|prompt)"
    r"|exceeded model token limit|context window exceeds limit|greater than the context length"
    r"|prompt exceeds max length|inputs` tokens \+ `max_new_tokens` must be|inputs` must have less than"
    r"|exceeds the maximum number of tokens|token count is \d+ but|maximum allowed input length"
    r"|range of input length should be|body too large for \S+ model|tokens in the prompt cannot exceed",
    re.IGNORECASE,
)
THROTTLING = re.compile(r"\brates?\b|rate_limit|throttl|too many|429", re.IGNORECASE)
WAIT = re.compile(r"please wait|throttl|rate limit|per (minute|day)", re.IGNORECASE)
BUSY_STATUSES = (429, 503, 529)
# Servers refuse a conversation that is too long with 4xx, with 500, or in a stream without a status.
REFUSED = ("model_refused", "model_unavailable", None)
# Class names: httpx, the SDKs of OpenAI, Anthropic and Ollama, botocore, aiohttp, pydantic, json.
CLASS_CODES = {
    "TransportError": "model_unavailable",
    "APIConnectionError": "model_unavailable",
    "ConnectionError": "model_unavailable",
    "HTTPClientError": "model_unavailable",
    "ClientConnectionError": "model_unavailable",
    "ResponseError": "model_unavailable",
    "NoCredentialsError": "model_auth",
    "JSONDecodeError": "model_invalid_answer",
    "UnicodeDecodeError": "model_invalid_answer",
    "ValidationError": "model_invalid_answer",
    "APIResponseValidationError": "model_invalid_answer",
}
# Sentences for users. The provider's own message may hold a key and goes to the server's log only.
SENTENCES = {
    "model_auth": "the model's provider refuses the key, or no key is set",
    "model_not_found": "the model's provider knows no such model, or the address is wrong",
    "model_throttled": "the model's provider refuses the requests because there are too many",
    "model_unavailable": "the connection to the model failed or broke, or the model's provider failed",
    "model_refused": "the model's provider does not accept the request",
    "model_invalid_answer": "the model's answer breaks its provider's protocol",
    "model_error": "the model call failed",
    "context_overflow": "the conversation is too long for the model",
    "max_tokens": "the model's answer was cut by its token limit",
}
BROKEN = "the connection to the model broke"  # the text for errors without a message
# SDKs detect a missing key themselves, with messages of their own.
NO_KEY = ("api_key", "api key", "authentication method", "credentials")
# Start of the message of strands' providers for a content block they cannot send.
NO_SUCH_CONTENT = "content_type=<"


def agent_error(error: BaseException, model_errors: Collection[BaseException] = ()) -> RunstoreError:
    """A strands error as one of ours; an error of ours that passed through strands is returned unchanged.

    Args:
        model_errors: errors that models raised, to distinguish their failures from the agent's.
    """
    error = unwrapped(error)
    if isinstance(error, RunstoreError):
        return error
    code = next((code for cls, code in CODES.items() if isinstance(error, cls)), None)
    if code is None:
        of_a_model = any(error is raised for raised in model_errors)
        code = model_error_code(error) if of_a_model else "agent_error"
    sentence = SENTENCES.get(code) or described(error)
    if code == "model_error":
        sentence = f"{sentence} ({type(error).__name__})"
    return AgentError(sentence, code=code)


def sentence_of(code: str) -> str:
    """The sentence for users about a model's failure."""
    return SENTENCES.get(code, SENTENCES["model_error"])


def model_error_code(error: BaseException) -> str:
    """The code of an error that a model raised."""
    for cause in _causes(unwrapped(error)):
        if (code := _code_of(cause)) is not None:
            return code
    return "model_error"


def is_throttled(error: BaseException) -> bool:
    """Whether the provider refused a call for its rate."""
    return isinstance(error, ModelThrottledException) or _status(error) == 429


@contextmanager
def recognised() -> Iterator[None]:
    """Raise a model's error as strands should have recognised it.

    Some of its classes look for "rate" in the message of a throttled call, which "generate" has, too. They
    know few of the words for a conversation that is too long, which strands shortens and sends again. And
    they take "too many tokens, please wait" for such a conversation.
    """
    try:
        yield
    except ModelThrottledException as error:
        cause = error.__cause__
        if cause is None or _is_throttling(error, cause):
            raise
        raise cause from cause.__cause__
    except ContextWindowOverflowException as error:
        if WAIT.search(words_of(error)) is None or OVERFLOW.search(words_of(error)) is not None:
            raise
        raise ModelThrottledException(words_of(error)) from error.__cause__
    except Exception as error:
        if _is_overflow(error):
            raise ContextWindowOverflowException(words_of(error)) from error
        raise


def _is_overflow(error: BaseException) -> bool:
    """Whether a conversation is too long for its model, in the words of its server."""
    if isinstance(error, AgentError | ContextWindowOverflowException):
        return False
    refused = _code_of(error) in REFUSED or _status(error) == 413
    return refused and OVERFLOW.search(words_of(error)) is not None


def _is_throttling(error: ModelThrottledException, cause: BaseException) -> bool:
    busy = _status(cause) in BUSY_STATUSES or model_error_code(cause) == "model_throttled"
    return busy or THROTTLING.search(str(error)) is not None


def unwrapped(error: BaseException) -> BaseException:
    """The original of an error that strands' loop has wrapped."""
    for _ in range(MAX_CAUSES):
        if not isinstance(error, EventLoopException):
            break
        error = error.original_exception
    return error


def described(error: BaseException) -> str:
    """An error in one line, with its root cause where that adds something, as for "Connection error."."""
    line = in_a_line(error)
    if model_error_code(error) != "model_unavailable":
        return line
    causes = [words_of(cause).strip() for cause in _causes(error)]
    root = next((text for text in reversed(causes) if text), BROKEN)
    root = without_keys(" ".join(root[:MAX_WORDS].split()))
    return line if root in line else f"{line} ({root})"[:MAX_WORDS]


def _code_of(error: BaseException) -> str | None:
    if isinstance(error, AgentError):  # repair.py raises it
        return error.code
    for cls, code in CODES.items():
        if isinstance(error, cls):
            return code
    status = _status(error)
    if status is not None and status < 500:
        return STATUS_CODES.get(status, "model_refused")
    if (known := _code_in(words_of(error))) is not None:  # before a 5xx: LiteLLM reports a missing key as one
        return known
    if status is not None or isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return "model_unavailable"
    names = (cls.__name__ for cls in type(error).__mro__)
    kinds = (KIND_CODES[kind] for kind in _kinds(error) if kind in KIND_CODES)
    return next(kinds, None) or next((CLASS_CODES[name] for name in names if name in CLASS_CODES), None)


def _code_in(text: str) -> str | None:
    """The code for an error's message, if it is recognised."""
    if text.startswith(NO_SUCH_CONTENT):
        return "invalid_input"
    if "NoneType" in text:  # the provider's answer lacks a part of the protocol
        return "model_invalid_answer"
    words = text.lower()
    return "model_auth" if any(phrase in words for phrase in NO_KEY) else None


def _status(error: BaseException) -> int | None:
    """The HTTP status of a provider's error answer."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        candidates = [found]
    else:
        candidates = [getattr(error, name, None) for name in ("status_code", "code")]
        candidates.append(getattr(response, "status_code", None))
    numbers = (int(each) if isinstance(each, str) and each.isdecimal() else each for each in candidates)
    return next((each for each in numbers if isinstance(each, int) and 400 <= each < 600), None)


def _kinds(error: BaseException) -> Iterator[str]:
    """The provider's words for an error: of OpenAI's or Anthropic's error object, or AWS' code."""
    body, response = getattr(error, "body", None), getattr(error, "response", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    found = response.get("Error") if isinstance(response, dict) else None
    for given in (inner, found, vars(error)):
        if isinstance(given, dict):
            yield from (str(given[name]) for name in ("type", "code", "Code") if name in given)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, down to the root."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__
