"""Count turns of phrase that make a sentence hard to read, in comments and docstrings, by room.

    python tools/idioms.py            # per 10,000 words of src/runstore, by room
    python tools/idioms.py -v cli     # every occurrence in the rooms whose name begins with "cli"

A measure to look at, not a gate: some sentences need one of these words. CONTRIBUTING.md says how to
write instead.
"""

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "runstore"

VERB = r"(?:is|are|was|were|has|have|had|does|did|do|will|would|can|cannot|could|may|might|must|shall|should)"
TURNS = {
    "whoever, nobody": r"\b(?:who|what|which|when)ever (?!they\b)|\bnobody\b|\bno one\b",
    "told, tells": r"\b(?:told|tells?|telling)\b",
    "what is, who has": rf"\b(?:what|who) {VERB}\b|(?:^|[.;:] )(?-i:What|Who) (?!{VERB}\b)",
    "anew, meanwhile": r"\b(?:anew|meanwhile|for ever|forever)\b",
    "is none": r"\b(?:is|are|was|were|has|have|had|be) none\b",
}
PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in TURNS.items()}
WORD = re.compile(r"[A-Za-z][\w'’-]*")


def prose(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each block of comments, and of each docstring."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if text := ast.get_docstring(node):
            yield node.body[0].lineno, text
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if block and line != last + 1:
                yield last - len(block) + 1, " ".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = line
    if block:
        yield last - len(block) + 1, " ".join(block)


def room(path: Path) -> str:
    """The folder under `runstore`, two levels deep, or the module at its top."""
    parts = path.relative_to(SOURCE).parts
    return "/".join(parts[: min(2, len(parts) - 1)]) if len(parts) > 1 else parts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Count hard turns of phrase per 10,000 words of comments.")
    parser.add_argument("rooms", nargs="*", default=[""], help="only rooms whose name begins so")
    parser.add_argument("-v", "--verbose", action="store_true", help="show every occurrence")
    arguments = parser.parse_args()
    words: dict[str, int] = {}
    found: dict[str, int] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        name = room(path)
        if not name.startswith(tuple(arguments.rooms)):
            continue
        for line, text in prose(path.read_text()):
            flat = " ".join(text.split())
            words[name] = words.get(name, 0) + len(WORD.findall(flat))
            for turn, pattern in PATTERNS.items():
                for match in pattern.finditer(flat):
                    found[name] = found.get(name, 0) + 1
                    if arguments.verbose:
                        start, end = max(0, match.start() - 30), match.end() + 40
                        print(f"{path.relative_to(SOURCE.parent)}:{line}: [{turn}] …{flat[start:end]}…")
    for name in sorted(words, key=lambda name: -found.get(name, 0) / words[name]):
        print(f"{found.get(name, 0) * 10_000 / words[name]:6.0f}  {name}  ({words[name]:,} words)")
    total = sum(words.values())
    print(f"{sum(found.values()) * 10_000 / total if total else 0:6.1f}  all  ({total:,} words)")


if __name__ == "__main__":
    main()
