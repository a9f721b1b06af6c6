"""The text that a run's result carries."""

from typing import Any

from runstore.core.codec import mended

MAX_RESULT_BYTES = 256 << 10  # of UTF-8; the whole of it stands in the run's events


def text_result(text: str) -> dict[str, Any]:
    """The text as part of a result, cut to what a result may hold, and whether it was cut."""
    if len(text) * 4 <= MAX_RESULT_BYTES:
        return {"text": text}
    encoded = mended(text).encode()
    if len(encoded) <= MAX_RESULT_BYTES:
        return {"text": text}
    return {"text": encoded[:MAX_RESULT_BYTES].decode(errors="ignore"), "truncated": True}
