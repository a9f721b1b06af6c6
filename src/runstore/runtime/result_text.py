"""The text in a run's result."""

from typing import Any

from runstore.core.codec import mended

MAX_RESULT_BYTES = 256 << 10  # bytes of UTF-8; the run's events hold the whole text


def text_result(text: str) -> dict[str, Any]:
    """The text cut to the limit of a result, and whether it was cut."""
    if len(text) * 4 <= MAX_RESULT_BYTES:
        return {"text": text}
    encoded = mended(text).encode()
    if len(encoded) <= MAX_RESULT_BYTES:
        return {"text": text}
    return {"text": encoded[:MAX_RESULT_BYTES].decode(errors="ignore"), "truncated": True}
