"""The scripted model's words. Pure: the same input gives the same words, without an LLM.

An answer is a list of pieces, one model token each: a word and the white space after it. The last piece has
no white space, so that the joined pieces are clean text.
"""

import ast
import operator
import re
from collections.abc import Callable
from itertools import cycle, islice

SHORT = 39  # words of an ordinary answer: "under 40"
LONG = 600  # words of an essay, at least
MAX_REPEATS = 1_000  # numbers in a count, or repetitions of a word
MAX_PARAGRAPHS = 100
MAX_TASK = 2_000  # characters; a longer input is not searched for the tasks below
MAX_EXPRESSION = 60  # characters of arithmetic
SILENCE = "There is nothing for me to say."

NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
PLANETS = ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune"]

NUMBER = rf"(-?\d{{1,9}}|{'|'.join(NUMBERS)})"
COUNT = re.compile(rf"\bcount\b.{{0,20}}?\bfrom {NUMBER} (?:down |up )?to {NUMBER}\b", re.I | re.S)
FIRST_PLANETS = re.compile(rf"\bfirst {NUMBER} planets\b", re.I)
QUOTED = r"""(?:(['"])(.{1,200}?)\1|(\S+))"""
SAY = re.compile(rf"\b(?:say|repeat|write|print) (?:the words? )?{QUOTED} {NUMBER} times\b", re.I)
SUM = re.compile(r"\b(?:what is|what's|how much is|calculate|compute)\s+([-(\d][-+*()\d ]*)[?.!=\s]*$", re.I)
LONG_FORM = re.compile(r"\blong\b.{0,40}\b(?:essay|poem|story)\b", re.I | re.S)
PARAGRAPHS = re.compile(rf"\b{NUMBER}[ -]paragraphs?\b", re.I)
TOPIC = re.compile(r"\babout\s+([^.!?\n]{1,80})", re.I)

SENTENCES = [
    "Whoever begins to think about {} soon finds that every answer opens another door.",
    "There was a time when {} was hardly more than a rumour among patient people.",
    "Step by step they measured, compared, and wrote down what the evening before had shown.",
    "Nothing in {} is as simple as it looks from a comfortable distance.",
    "Some carried the heavy boxes, some kept the books, and some only asked good questions.",
    "What they learned was passed on, and nothing that was written down got lost.",
    "A careful reader of {} notices how much depends on the order of things.",
    "The road is long, but each mile of it has been walked by somebody before.",
    "So {} goes on, from one hand to the next, without a break.",
]


def answer(task: str, tokens: int | None = None) -> list[str]:
    """The answer to a task, in pieces.

    A known task gets its answer; any other input gets its own words back, at most `SHORT` of them. With
    `tokens` the words are cycled to exactly this number of pieces.
    """
    known = known_answer(task)
    return echo(task, tokens, SHORT) if known is None else pieces(known, tokens)


def echo(text: str, tokens: int | None, most: int) -> list[str]:
    """The text's own words: `most` of them, or cycled to exactly `tokens`."""
    words = text.split() or SILENCE.split()
    return pieces(words[:most] if tokens is None else words, tokens)


def pieces(words: list[str], tokens: int | None) -> list[str]:
    """The words as a model streams them. A word that ends a paragraph carries its own white space."""
    if tokens is not None:
        words = list(islice(cycle([word.strip() for word in words]), tokens))
    spaced = [word if word.endswith("\n") else word + " " for word in words]
    return [*spaced[:-1], words[-1].rstrip()]


def known_answer(task: str) -> list[str] | None:
    """The words of the answer to a known task; None for any other."""
    matches = ((pattern.search(task), say) for pattern, say in KNOWN if len(task) <= MAX_TASK)
    return next((say(match, task) for match, say in matches if match), None)


def number(text: str) -> int:
    return NUMBERS.index(text.lower()) if text.isalpha() else int(text)


def _count(match: re.Match[str], task: str) -> list[str]:
    first, last = number(match[1]), number(match[2])
    step = 1 if last >= first else -1
    return [str(n) for n in islice(range(first, last + step, step), MAX_REPEATS)]


def _planets(match: re.Match[str], task: str) -> list[str] | None:
    return PLANETS[: max(number(match[1]), 0)] or None


def _repeat(match: re.Match[str], task: str) -> list[str] | None:
    words = (match[2] or match[3]).split()
    return words * min(max(number(match[4]), 0), MAX_REPEATS) or None


def _sum(match: re.Match[str], task: str) -> list[str] | None:
    try:
        return [str(_evaluate(ast.parse(match[1].strip()[:MAX_EXPRESSION], mode="eval").body))]
    except (SyntaxError, ValueError):  # the text only looked like a sum
        return None


OPERATORS: dict[type[ast.operator | ast.unaryop], Callable[..., int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.USub: operator.neg,
}


def _evaluate(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_evaluate(left), _evaluate(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_evaluate(operand))
    raise ValueError("not a sum of integers")


def _essay(match: re.Match[str], task: str) -> list[str]:
    count = 10
    if asked := PARAGRAPHS.search(task):
        count = min(max(number(asked[1]), 1), MAX_PARAGRAPHS)
    topic = found[1].strip() if (found := TOPIC.search(task)) else "it"
    sentences, words = cycle(SENTENCES), []
    for _ in range(count):
        paragraph: list[str] = []
        while len(paragraph) * count < LONG:
            paragraph += next(sentences).format(topic).split()
        words += [*paragraph[:-1], paragraph[-1] + "\n\n"]
    return words


KNOWN: list[tuple[re.Pattern[str], Callable[[re.Match[str], str], list[str] | None]]] = [
    (COUNT, _count),
    (FIRST_PLANETS, _planets),
    (SAY, _repeat),
    (SUM, _sum),
    (PARAGRAPHS, _essay),
    (LONG_FORM, _essay),
]
