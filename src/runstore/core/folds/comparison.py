"""Aligns the steps of two runs, and compares their texts word by word. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal

import msgspec
from msgspec import Struct

from runstore.core.codec import to_json
from runstore.core.folds.step import Step
from runstore.core.folds.transcript import message_text, within

MAX_COMPARED = 3_000  # characters of a text that are compared; the rest is left out
# Pairs of words of all texts of a comparison, about a second of work. The texts after that differ whole.
MOST_CELLS = 2_000_000
# Items that differ: with more of them, items that are each over 1% of all begin no match of their own.
# Otherwise the comparison takes minutes where two runs repeat a few items.
MAX_EXACT = 500
WORD = re.compile(r"\S+\s*|\s+")

Part = tuple[Literal["same", "left", "right"], str]


class Pair(Struct, frozen=True):
    """Two texts that belong together, in parts that are the same or of one side.

    `kind`, `name`: of the steps that say them. `left`, `right`: whether there is a text on this side.
    """

    kind: str
    name: str
    left: bool
    right: bool
    parts: list[Part]


class RunComparison:
    """Compares the texts of two runs, until they have had MOST_CELLS pairs of words."""

    def __init__(self) -> None:
        self._left = MOST_CELLS

    def pair(self, kind: str, name: str, left: str | None, right: str | None) -> Pair:
        """Two texts by words. None: this side has no text."""
        return Pair(kind, name, left is not None, right is not None, self._parts(left or "", right or ""))

    def steps(self, left: Iterable[Step], right: Iterable[Step]) -> list[Pair]:
        """The model and tool calls of two runs, aligned by kind and name."""
        a, b = ([step for step in steps if step.kind in ("model", "tool")] for steps in (left, right))
        found = []
        for one, other in _aligned(a, b):
            texts = [None if step is None else _text(step) for step in (one, other)]
            if shown := one or other:
                found.append(self.pair(shown.kind, shown.name, *texts))
        return found

    def _parts(self, left: str, right: str) -> list[Part]:
        a, b = (WORD.findall(text[:MAX_COMPARED]) for text in (left, right))
        if a == b:
            return [("same", "".join(a))] if a else []
        self._left -= len(a) * len(b)
        codes = opcodes(a, b) if self._left > 0 else [("replace", 0, len(a), 0, len(b))]
        parts: list[Part] = []
        for tag, a1, a2, b1, b2 in codes:
            if tag == "equal":
                parts.append(("same", "".join(a[a1:a2])))
                continue
            parts += [("left", "".join(a[a1:a2]))] if a2 > a1 else []
            parts += [("right", "".join(b[b1:b2]))] if b2 > b1 else []
        return parts


def _aligned(a: Sequence[Step], b: Sequence[Step]) -> list[tuple[Step | None, Step | None]]:
    found: list[tuple[Step | None, Step | None]] = []
    for tag, a1, a2, b1, b2 in opcodes(*([(step.kind, step.name) for step in steps] for steps in (a, b))):
        if tag == "equal":
            found += zip(a[a1:a2], b[b1:b2], strict=True)
        else:
            found += [(step, None) for step in a[a1:a2]] + [(None, step) for step in b[b1:b2]]
    return found


def opcodes(one: Sequence[Any], two: Sequence[Any]) -> Iterator[tuple[str, int, int, int, int]]:
    """`SequenceMatcher.get_opcodes`, in bounded time also for long sequences that repeat a few items."""
    shorter = min(len(one), len(two))
    begin = next((n for n in range(shorter) if one[n] != two[n]), shorter)
    shorter -= begin
    end = next((n for n in range(shorter) if one[-1 - n] != two[-1 - n]), shorter)
    if begin:
        yield "equal", 0, begin, 0, begin
    middle = one[begin : len(one) - end], two[begin : len(two) - end]
    matcher = SequenceMatcher(None, *middle, autojunk=max(map(len, middle)) > MAX_EXACT)
    for tag, i, j, k, m in matcher.get_opcodes():
        yield tag, begin + i, begin + j, begin + k, begin + m
    if end:
        yield "equal", len(one) - end, len(one), len(two) - end, len(two)


def _text(step: Step) -> str:
    """The text of a model call, or the input and output of a tool call."""
    if step.kind == "tool":
        done: Any = {"input": step.input, "output": step.output}
        return msgspec.json.format(to_json(done), indent=1).decode()
    if step.content is None:
        return step.text
    text = message_text({"content": step.content})
    names = [within(block, "toolUse", "name") for block in step.content]
    return text or ", ".join(name for name in names if isinstance(name, str))
