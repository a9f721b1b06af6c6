"""Count turns of phrase that make a sentence hard to read, by room.

    python tools/idioms.py            # per 10,000 words of the source, of `docs` and of `tests`, by room
    python tools/idioms.py -v cli     # every occurrence in the rooms whose name begins with "cli"

Counted are comments, docstrings, strings of at least three words (messages and help texts; not SQL), the
names of tests, and the text of pages without their blocks of code. A measure to look at, not a gate: some
sentences need one of these words. CONTRIBUTING.md says how to write instead.
"""

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

VERB = r"(?:is|are|was|were|has|have|had|does|did|do|will|would|can|cannot|could|may|might|must|shall|should)"
TURNS = {
    "whoever, nobody": r"\b(?:who|what|which|when)ever (?!they\b)|\b(?:no|some)body\b|\bno one\b",
    "told, tells": r"\b(?:told|tells?|telling)\b",
    "what is, who has": rf"\b(?:what|who) {VERB}\b|(?:^|[.;:] )(?-i:What|Who) (?!{VERB}\b)",
    "anew, meanwhile": r"\b(?:anew|meanwhile|for ever|forever)\b",
    "is none": r"\b(?:is|are|was|were|has|have|had|be) none\b",
}
PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in TURNS.items()}
WORD = re.compile(r"[A-Za-z][\w'’-]*")
SQL = re.compile(r"\b(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|WHERE|FROM)\b")
BLOCK = re.compile(r"^( *)(```+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)  # of code, on a page
MIN_WORDS = 3  # a string with fewer is a name more often than a sentence


def of_page(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each paragraph of a page."""
    text = BLOCK.sub(lambda code: "\n" * code[0].count("\n"), source)
    for paragraph in re.finditer(r"(?:^.+\n?)+", text, re.MULTILINE):
        yield text.count("\n", 0, paragraph.start()) + 1, paragraph[0]


def of_code(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each docstring, string, name of a test, and block of comments."""
    tree = ast.parse(source)
    counted: set[ast.AST] = set()  # docstrings, and the parts of f-strings
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(node):
                yield node.body[0].lineno, text
                counted.update(ast.walk(node.body[0]))
            if not isinstance(node, ast.Module) and node.name.startswith("test_"):
                yield node.lineno, node.name.replace("_", " ")
        elif isinstance(node, ast.JoinedStr):
            counted.update(part for part in node.values if isinstance(part, ast.Constant))
    for node in ast.walk(tree):
        if node not in counted and is_sentence(text := string_of(node)):
            yield getattr(node, "lineno", 0), text
    yield from comments(source)


def string_of(node: ast.AST) -> str:
    """The text of a string, with "…" for what an f-string inserts."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def is_sentence(text: str) -> bool:
    return len(WORD.findall(text)) >= MIN_WORDS and not SQL.search(text)


def comments(source: str) -> Iterator[tuple[int, str]]:
    """The line and the text of each block of comments."""
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


def room(path: Path, source: Path) -> str:
    """`docs`, `tests`, or the folder under `runstore`, two levels deep, or the module at its top."""
    if path.suffix == ".md":
        return "docs"
    if not path.is_relative_to(source):
        return "tests"
    parts = path.relative_to(source).parts
    return "/".join(parts[: min(2, len(parts) - 1)]) if len(parts) > 1 else parts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Count hard turns of phrase per 10,000 words.")
    parser.add_argument("rooms", nargs="*", default=[""], help="only rooms whose name begins so")
    parser.add_argument("-v", "--verbose", action="store_true", help="show every occurrence")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    arguments = parser.parse_args()
    root, source = arguments.root, arguments.root / "src" / "runstore"
    words: dict[str, int] = {}
    found: dict[str, int] = {}
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    for path in sorted([*source.rglob("*.py"), *(root / "tests").rglob("*.py"), *pages]):
        name = room(path, source)
        if not name.startswith(tuple(arguments.rooms)):
            continue
        read = of_page if path.suffix == ".md" else of_code
        for line, text in read(path.read_text(encoding="utf-8")):
            flat = " ".join(text.split())
            words[name] = words.get(name, 0) + len(WORD.findall(flat))
            for turn, pattern in PATTERNS.items():
                for match in pattern.finditer(flat):
                    found[name] = found.get(name, 0) + 1
                    if arguments.verbose:
                        start, end = max(0, match.start() - 30), match.end() + 40
                        print(f"{path.relative_to(root)}:{line}: [{turn}] …{flat[start:end]}…")
    for name in sorted(words, key=lambda name: -found.get(name, 0) / words[name]):
        print(f"{found.get(name, 0) * 10_000 / words[name]:6.0f}  {name}  ({words[name]:,} words)")
    total = sum(words.values())
    print(f"{sum(found.values()) * 10_000 / total if total else 0:6.1f}  all  ({total:,} words)")


if __name__ == "__main__":
    main()
