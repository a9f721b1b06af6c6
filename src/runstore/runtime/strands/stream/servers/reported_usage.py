"""The tokens that a provider reports, in one meaning for all providers.

Anthropic and Bedrock count cached tokens beside the input, the others within it. Here the input is always the
whole prompt, as OpenTelemetry's `gen_ai.usage.input_tokens`. strands passes on no reasoning tokens, so they
are added to what it makes of a provider's report.
"""

from collections.abc import Mapping
from typing import Any

from runstore.runtime.strands.stream.format_chunks import Extension

REASONING = "reasoningTokens"  # our key in strands' usage
DETAILS = ("completion_tokens_details", "output_tokens_details")  # the names in OpenAI's two protocols
MAX_TOKENS = 1 << 40  # tokens of one call; a sum of many still fits into 64 bits


def tokens_of(reported: Mapping[str, Any]) -> dict[str, int]:
    """The fields of `llm.usage` for a usage as strands reports it."""
    inputs, outputs = _count(reported.get("inputTokens")), _count(reported.get("outputTokens"))
    read, written = (
        _count(reported.get("cacheReadInputTokens")),
        _count(reported.get("cacheWriteInputTokens")),
    )
    cached = read + written
    if cached and (cached > inputs or _count(reported.get("totalTokens")) == inputs + outputs + cached):
        inputs += cached
    return {
        "input_tokens": inputs, "output_tokens": outputs, "cache_read_tokens": read,
        "cache_write_tokens": written, "reasoning_tokens": _count(reported.get(REASONING)),
    }  # fmt: skip


def _add_reasoning(chunk: dict[str, Any], event: Mapping[str, Any]) -> None:
    if usage := chunk.get("metadata", {}).get("usage"):
        usage[REASONING] = _reasoning_tokens(event.get("data"))


def _reasoning_tokens(report: Any) -> int:
    found = [getattr(getattr(report, details, None), "reasoning_tokens", None) for details in DETAILS]
    return next(filter(None, map(_count, (*found, getattr(report, "thoughts_token_count", None)))), 0)


def _count(value: Any) -> int:
    return min(max(value, 0), MAX_TOKENS) if isinstance(value, int) else 0


report_reasoning = Extension(_add_reasoning).install
