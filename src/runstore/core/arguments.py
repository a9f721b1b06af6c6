"""Reads the arguments of a tool call in the variants that models and clients write. Pure."""

import json
import re
from typing import Any

from runstore.core.depth import check_decodable, folded

MAX_MENDED = 1 << 20  # characters of an object to mend, since each mistake is a step of Python

# The forms that JSON lacks, and texts, in which they do not count. A text may lack its end.
_TOKEN = re.compile(
    r"""(?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|'[^'\\]*+(?:\\.[^'\\]*+)*+(?:'|\\?\Z))"""
    r"|(?<![\w.])(?:(?P<name>[A-Za-z_]\w*+)(?=\s*:)|(?P<word>True|False|None)\b)|(?P<comma>,)(?=\s*[}\]])",
    re.DOTALL,
)
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|\\(?P<other>.)|"', re.DOTALL)
_BLOCK = re.compile(r"```\w*\s*(?P<object>\{.*)```", re.DOTALL)  # a code block around an object
_MARKS = re.compile(r"(?:\s|</?\w+>|<\|\w+\|>)*")  # of a model's own template, which its server should remove
_DECODER = json.JSONDecoder(strict=False)
_WORDS = {"True": "true", "False": "false", "None": "null"}  # Python's


def read_arguments(text: str, *, deepest: int | None = None) -> dict[str, Any]:
    """The arguments that a text holds as JSON; none for an empty text.

    Accepted, too: line breaks and tabs that are not escaped, `NaN`, JSON encoded twice, an empty object
    before the arguments, the same object once more, a code block around it, and tags after it
    (`</tool_call>`, `<|call|>`). So is an object in the forms of Python and JavaScript: a comma after the
    last item, single quotes, names without quotes, `True`, `None`, and escapes that JSON lacks (`\\d`).

    Args:
        deepest: levels to keep. Each deeper value becomes a text, its JSON.

    Raises:
        ValueError: it is not JSON, or no object, or nested too deep for a decoder.
    """
    text = text.strip().removeprefix("{}").strip()
    if block := _BLOCK.fullmatch(text):
        text = block["object"].strip()
    value = _decoded(text, deepest) if text else None
    if isinstance(value, str):
        value = _decoded(value, deepest)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def same_arguments(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; in Python `True` equals 1, too."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _decoded(text: str, deepest: int | None) -> Any:
    try:
        return _json(text, deepest)
    except ValueError:
        if len(text) > MAX_MENDED:
            raise
        if (object := _without_rest(text)) is not None:
            return _json(object, deepest)
        if not text.endswith("}"):
            raise  # without its end it is cut off, and its last value may be, too
        return _json(_TOKEN.sub(_as_json, text), deepest)


def _without_rest(text: str) -> str | None:
    """The object at the start of a text that repeats it, or ends with tags; None for another text."""
    try:
        check_decodable(text.encode(errors="replace"))
        value, end = _DECODER.raw_decode(text)
        if not isinstance(value, dict) or end == len(text):
            return None
        if _MARKS.fullmatch(text, end) or same_arguments(_DECODER.decode(text[end:]), value):
            return text[:end]
    except (ValueError, RecursionError):
        pass
    return None


def _json(text: str, deepest: int | None) -> Any:
    if deepest is not None:
        text = folded(text.encode(), deepest).decode()
    try:
        check_decodable(text.encode(errors="replace"))
        return json.loads(text, strict=False)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _as_json(token: re.Match[str]) -> str:
    given = token[0]
    if token["text"]:
        return f'"{_ESCAPE.sub(_escaped, given[1:-1])}"' if given[0] == given[-1] else given
    return f'"{given}"' if token["name"] else _WORDS.get(given, "")


def _escaped(escape: re.Match[str]) -> str:
    if (other := escape["other"]) is not None:
        return other if other == "'" else rf"\\{other}"
    return r"\"" if escape[0] == '"' else escape[0]
