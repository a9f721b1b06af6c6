"""Why an answer ended, where strands does not know it.

strands knows a few of its providers' reasons. It takes all others, and a missing one, for the end of a
complete answer. So the provider's own reason is kept beside strands', and read here.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from runstore.core.errors import AgentError
from runstore.runtime.strands.stream.format_chunks import Extension

KEPT = "providerReason"  # our key in strands' `messageStop`
COMPLETE = "end_turn"  # strands' word; some of its classes also give it for a missing reason
BLOCKED = "blocked"  # our reason for an answer to a prompt that its provider has blocked
FAILED = "the model's provider failed before the end of the answer"
MALFORMED = "the model's answer is malformed"

# Reasons of OpenAI-compatible servers and gateways, of Gemini, Mistral, Cohere and Bedrock, in lower case.
STOP_REASONS = {
    **dict.fromkeys(
        (
            "error_limit", "length", "max_length", "max_output_tokens", "max_tokens",
            "model_context_window_exceeded", "model_length", "token_limit",
        ),
        "max_tokens",
    ),
    **dict.fromkeys(
        (
            BLOCKED, "blocklist", "content_filter", "error_toxic", "image_prohibited_content",
            "image_recitation", "image_safety", "jailbreak", "language", "model_armor", "prohibited_content",
            "recitation", "refusal", "safety", "sensitive", "spii",
        ),
        "content_filtered",
    ),
}  # fmt: skip
FAILURES = {
    **dict.fromkeys(
        (
            "abort", "cancelled", "error", "insufficient_system_resource", "network_error", "other",
            "time_limit",
        ),
        (FAILED, "model_unavailable"),
    ),
    **dict.fromkeys(
        (
            "malformed_function_call", "malformed_model_output", "malformed_response", "malformed_tool_use",
            "missing_thought_signature", "too_many_tool_calls", "unexpected_tool_call",
        ),
        (MALFORMED, "model_invalid_answer"),
    ),
}  # fmt: skip
BEDROCKS = ("malformed_model_output", "malformed_tool_use")
_WORD = re.compile("[a-z_]+")


class Ending(NamedTuple):
    """How an answer ended: strands' reason, and the failure that it really was.

    `missing`: its provider gave no reason.
    """

    stop_reason: str | None
    failure: AgentError | None = None
    missing: bool = False


def ending_of(stop: Mapping[str, Any]) -> Ending:
    """The ending that a `messageStop` of strands reports."""
    reason = stop.get("stopReason")
    if KEPT not in stop:  # Bedrock, Anthropic, or a user's own model
        return Ending(reason, _failure(reason) if reason in BEDROCKS else None)
    own = stop[KEPT]
    # The last word that is known: proxies write "content_filter: PROHIBITED_CONTENT".
    for word in _WORD.findall(own.lower())[::-1] if own else ():
        if word in FAILURES:
            return Ending(reason, _failure(word))
        if reason == COMPLETE and word in STOP_REASONS:
            return Ending(STOP_REASONS[word])
    return Ending(reason, missing=own is None)


def _failure(reason: str) -> AgentError:
    message, code = FAILURES[reason]
    return AgentError(f"{message} ({reason})", code=code)


def _keep(chunk: dict[str, Any], event: Mapping[str, Any]) -> None:
    if event.get("chunk_type") == "message_stop" and "messageStop" in chunk:
        own = event.get("data")
        own = getattr(own, "value", own)
        chunk["messageStop"][KEPT] = own if isinstance(own, str) and own != COMPLETE else None


keep_reasons = Extension(_keep).install
