"""Reads the arguments of a tool call in the variants that models and clients write. Pure."""

import json
from typing import Any

from runstore.core.depth import check_decodable, folded


def read_arguments(text: str, *, deepest: int | None = None) -> dict[str, Any]:
    """The arguments that a text holds as JSON; none for an empty text.

    Accepted, too: line breaks and tabs that are not escaped, `NaN`, JSON encoded twice, and an empty object
    before the arguments.

    Args:
        deepest: levels to keep. Each deeper value becomes a text, its JSON.

    Raises:
        ValueError: it is not JSON, or no object, or nested too deep for a decoder.
    """
    text = text.strip().removeprefix("{}").strip()
    value = _decoded(text, deepest) if text else None
    if isinstance(value, str):
        value = _decoded(value, deepest)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _decoded(text: str, deepest: int | None) -> Any:
    if deepest is not None:
        text = folded(text.encode(), deepest).decode()
    try:
        check_decodable(text.encode(errors="replace"))
        return json.loads(text, strict=False)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
