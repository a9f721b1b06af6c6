"""The documents as data: sections, tables, blocks of code. And the source, for what they must say of it."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "runstore"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]

HEADING = re.compile(r"^(#+) (.*)$", re.M)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@cache
def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its blocks of code, which may hold lines that look like headings or links."""
    return FENCE.sub("", text)


def section(name: str, title: str) -> str:
    """The text below a heading, subsections included."""
    text = page(name)
    code = [block.span() for block in FENCE.finditer(text)]
    headings = [h for h in HEADING.finditer(text) if not any(a <= h.start() < b for a, b in code)]
    for place, heading in enumerate(headings):
        if heading[2] == title:
            ends = (h.start() for h in headings[place + 1 :] if len(h[1]) <= len(heading[1]))
            return text[heading.end() : next(ends, len(text))]
    raise AssertionError(f"{name} has no heading {title!r}")


def rows(text: str) -> list[list[str]]:
    """The cells of the rows of all tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]


def words(text: str) -> list[str]:
    """The single words that a text marks as code."""
    return re.findall(r"`([\w.-]+)`", text)


def fenced(text: str, language: str) -> list[str]:
    return [block for kind, block in FENCE.findall(text) if kind == language]


def anchors(text: str) -> list[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = [title for _, title in HEADING.findall(prose(text))]
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@cache
def sources() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(SOURCE.rglob("*.py"))]


def calls() -> Iterator[ast.Call]:
    """Every call in the source."""
    for _, tree in sources():
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@cache
def assignments() -> list[tuple[Path, str, ast.expr]]:
    """Every assignment to a name in the source, of modules and classes: file, name, value."""
    return list(_assignments())


def _assignments() -> Iterator[tuple[Path, str, ast.expr]]:
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                        if isinstance(name, ast.Name):
                            yield path, name.id, node.value
