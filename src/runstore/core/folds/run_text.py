"""The text in a run's events: of its input, of answers, and of tool calls."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from runstore.core.folds.transcript import message_text

MAX_TEXT = 100_000  # characters of one event's text that are searched
# Keys whose values are not searched.
SKIPPED = frozenset({"bytes", "role", "format", "status", "toolUseId", "type"})
MAX_ASCII = 64  # characters of a word; MySQL ignores longer ones than 84
MAX_BYTES = 36  # bytes of a word with other letters, which take twice as much there

# For ASCII: letters become lower-case, and everything but letters and digits a blank.
_PLAIN = bytes(ord(chr(code).lower() if chr(code).isalnum() else " ") for code in range(128)).ljust(256)
# Scripts without blanks between words: each character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def input_text(input: Any) -> str:
    """The text of a run's input, in any of its forms."""
    if isinstance(input, str):
        return input[:MAX_TEXT]
    if isinstance(input, list) and input and all(isinstance(item, dict) for item in input):
        messages = input if all("content" in item for item in input) else [{"content": input}]
        asked = [message for message in messages if message.get("role") != "system"]
        try:
            return "\n".join(map(message_text, asked))[:MAX_TEXT]
        except (TypeError, AttributeError, KeyError):  # an agent of code takes any JSON
            pass
    return value_text(input)


def value_text(value: Any) -> str:
    """All strings and numbers within a JSON value, as of a tool's input or output."""
    parts: list[str] = []
    left = MAX_TEXT
    for part in _leaves(value):
        parts.append(part[:left])
        left -= len(part) + 1
        if left <= 0:
            break
    return " ".join(parts)


def words_of(text: str) -> list[str]:
    """The words of a text, as they are searched: without case, accents and punctuation."""
    text = text[:MAX_TEXT]
    if text.isascii():
        words = text.encode().translate(_PLAIN).decode().split()
    else:
        plain = unicodedata.normalize("NFKD", text.casefold())
        words = _WORD.findall("".join([c for c in plain if not unicodedata.combining(c)]).casefold())
    if max(map(len, words), default=0) <= 12:
        return words
    return [word if len(word) <= 12 else _cut(word) for word in words]


def _cut(word: str) -> str:
    return word[:MAX_ASCII] if word.isascii() else word.encode()[:MAX_BYTES].decode(errors="ignore")


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in SKIPPED:
                yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
