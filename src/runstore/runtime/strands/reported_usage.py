"""The tokens that a provider reports, in one meaning for all providers.

Anthropic and Bedrock count cached tokens beside the input, the others within it. Here the input is always the
whole prompt, as OpenTelemetry's `gen_ai.usage.input_tokens`. strands passes on no reasoning tokens, so they
are added to what it makes of a provider's report.
"""

from collections.abc import Callable, Mapping
from typing import Any

FORMATS = ("format_chunk", "_format_chunk")  # strands' methods that translate a provider's report
REASONING = "reasoningTokens"  # our key in strands' usage
DETAILS = ("completion_tokens_details", "output_tokens_details")  # of OpenAI's two protocols
MAX_TOKENS = 1 << 40  # of one call; a sum of many still fits into 64 bits

_reporting: set[type] = set()


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


def report_reasoning(model: Any) -> None:
    """Let strands' classes of a model pass on its provider's reasoning tokens. Safe to call twice."""
    for cls in type(model).__mro__:
        if cls.__module__.startswith("strands.models.") and cls not in _reporting:
            _reporting.add(cls)
            for name in FORMATS:
                if name in vars(cls):
                    setattr(cls, name, _with_reasoning(vars(cls)[name]))


def _with_reasoning(translate: Callable[..., Any]) -> Callable[..., Any]:
    """A method that translates chunks, with the reasoning tokens added to the usage."""

    def translate_with_reasoning(self: Any, event: Any, *args: Any, **kwargs: Any) -> Any:
        chunk = translate(self, event, *args, **kwargs)
        if isinstance(chunk, dict) and (usage := chunk.get("metadata", {}).get("usage")):
            usage[REASONING] = _reasoning_tokens(event.get("data"))
        return chunk

    return translate_with_reasoning


def _reasoning_tokens(report: Any) -> int:
    found = [getattr(getattr(report, details, None), "reasoning_tokens", None) for details in DETAILS]
    return next(filter(None, map(_count, (*found, getattr(report, "thoughts_token_count", None)))), 0)


def _count(value: Any) -> int:
    return min(max(value, 0), MAX_TOKENS) if isinstance(value, int) else 0
