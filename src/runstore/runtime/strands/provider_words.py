"""Removes providers' messages about failed model calls where other texts quote them. Pure.

A tool's code may catch its agent's error and return it, as strands' own examples do. The message may name
accounts and servers, and belongs only in the server's log.
"""

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from runstore.core.masking import MAX_TEXT
from runstore.runtime.user_code import causes_of, words_of

MAX_FAILURES = 64  # newest failures to remember; more models hardly fail in one run
MAX_CAUSES = 5  # causes of a failure to remember
MIN_CHARS = 8  # characters of a message to search for, as any text contains shorter ones
ANCHOR_CHARS = 12  # characters that identify the start of a message; its end may be cut off

_PART = re.compile(r"""[^\s"'\\\x7f-\U0010ffff]+""")
# Between parts: white space, quotes and characters beyond ASCII, also as Python or JSON escapes them.
_BETWEEN = r"""(?:\\(?:u[0-9a-fA-F]{4}|[nrt])?|[\s"'\x7f-\U0010ffff])*"""
_GAP = re.compile(_BETWEEN)


class ProviderWords:
    """Replaces the messages of the newest failures by sentences about them."""

    def __init__(self) -> None:
        self._failures: deque[tuple[list[_Words], str]] = deque(maxlen=MAX_FAILURES)

    def add(self, error: BaseException, sentence: str) -> None:
        """Remember a failed model call. `sentence`: its replacement."""
        causes = islice(causes_of(error), MAX_CAUSES)
        messages = [_Words(text) for cause in causes for text in dict.fromkeys(_texts(cause))]
        messages = [words for words in messages if words.chars >= MIN_CHARS]
        if messages and not any(messages == known for known, _ in self._failures):
            self._failures.append((messages, sentence))

    def replaced(self, value: Any) -> Any:
        """A value as in JSON, with sentences in place of messages; unchanged without messages."""
        return self._replaced(value) if self._failures else value

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, BaseException):
            value = words_of(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            new = {key: self._replaced(each) for key, each in value.items()}
            return new if any(new[key] is not each for key, each in value.items()) else value
        if isinstance(value, list | tuple):
            items = [self._replaced(each) for each in value]
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        return value

    def _text(self, text: str) -> str:
        new = text
        for messages, sentence in self._failures:
            for words in messages:
                new = words.replaced_in(new, sentence)
        return new


class _Words:
    """The message of one error, found in any spacing and quoting, and without its end."""

    def __init__(self, text: str) -> None:
        parts = _PART.findall(text[:MAX_TEXT])
        self.chars = sum(map(len, parts))
        first, chars = 0, 0
        while first < len(parts) and chars < ANCHOR_CHARS:
            chars += len(parts[first])
            first += 1
        self._parts = parts
        self._rest = parts[first:]
        self._anchor = re.compile(_BETWEEN.join(map(re.escape, parts[:first])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Words) and self._parts == other._parts

    def replaced_in(self, text: str, sentence: str) -> str:
        pieces, at = [], 0
        while found := self._anchor.search(text, at):
            pieces += [text[at : found.start()], sentence]
            at = self._end(text, found.end())
            if text.startswith(sentence, found.start()):  # it begins like the message
                at = max(at, found.start() + len(sentence))
        return "".join([*pieces, text[at:]]) if pieces else text

    def _end(self, text: str, at: int) -> int:
        """The end of a message that starts before `at`."""
        for part in self._rest:
            gap = _GAP.match(text, at)
            start = gap.end() if gap else at
            if not text.startswith(part, start):
                same = (a == b for a, b in zip(part, text[start:], strict=False))
                cut = next(
                    (i for i, equal in enumerate(same) if not equal), min(len(part), len(text) - start)
                )
                return start + cut if cut else at
            at = start + len(part)
        return at


def _texts(error: BaseException) -> Iterator[str]:
    """The message of an error, and the parts of the answer that providers' SDKs keep beside it."""
    yield words_of(error)
    body: Any = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    for text in (getattr(error, "message", None), inner.get("message") if isinstance(inner, dict) else None):
        if isinstance(text, str):
            yield text
