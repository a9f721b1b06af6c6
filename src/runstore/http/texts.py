"""Where a JSON value holds a text that is refused. Pure."""

import json
from collections.abc import Callable
from typing import Any

from runstore.core.depth import MAX_DEPTH


def place_of(value: Any, refused: Callable[[str], bool]) -> str | None:
    """The place of a refused text, as `$.messages[0].content`; that of the object if it is a field's name."""
    left = [("$", value, 0)]
    while left:
        place, value, depth = left.pop()
        if isinstance(value, str) and refused(value):
            return place
        if depth > 2 * MAX_DEPTH:
            continue  # which is refused for its depth
        if isinstance(value, dict):
            if any(map(refused, value)):
                return place
            left += [(f"{place}.{name}", each, depth + 1) for name, each in reversed(value.items())]
        elif isinstance(value, list):
            left += [(f"{place}[{n}]", each, depth + 1) for n, each in reversed([*enumerate(value)])]
    return None


def place_of_half_a_pair(body: bytes) -> str | None:
    """Where JSON holds half of a surrogate pair, as `\\ud83d` alone: JSON allows it, and UTF-8 does not."""
    if rb"\u" not in body:
        return None
    try:
        return place_of(json.loads(body.decode()), is_no_utf8)
    except (ValueError, RecursionError):
        return None


def is_no_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def holds_nul_character(text: str) -> bool:
    return "\0" in text
