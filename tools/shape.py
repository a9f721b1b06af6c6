"""Print the shape of the code: files, lines, and the imports between rooms.

    python tools/shape.py            # the rooms of src/runstore
    python tools/shape.py runtime    # the folders and files of one room

A room is a folder or a file at the top of the package. An arrow is one module that imports a module of
another room, however many names it takes; imports inside functions count.
"""

import argparse
import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median, quantiles

SOURCE = Path(__file__).parent.parent / "src" / "runstore"

Modules = Mapping[str, Path]  # dotted name → file


def modules_of(source: Path) -> Modules:
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, modules: Modules) -> set[str]:
    """The modules of the package that a file imports."""

    def named() -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in modules else node.module

    return {name for name in named() if name in modules}


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def shape(source: Path, room: str | None) -> Iterator[str]:
    """The lines to print, room by room."""
    within = source.name if room is None else f"{source.name}.{room.strip('/').replace('/', '.')}"
    modules = modules_of(source)

    def room_of(module: str) -> str | None:
        """The room of a module; None if it is not one of those to print."""
        if not f"{module}.".startswith(f"{within}."):
            return None
        return module[len(within) + 1 :].partition(".")[0] or "__init__"

    files: dict[str, list[int]] = defaultdict(list)
    arrows: dict[str, Counter[str]] = defaultdict(Counter)
    for module, path in modules.items():
        if (here := room_of(module)) is None:
            continue
        files[here].append(lines_of(path))
        for imported in imports_of(path, modules):
            if (there := room_of(imported)) is not None and there != here:
                arrows[here][there] += 1
    yield f"{'room':16} {'files':>5} {'lines':>7}  arrows to"
    for name, lines in sorted(files.items(), key=lambda each: -sum(each[1])):
        to = ", ".join(f"{there} {count}" for there, count in arrows[name].most_common())
        yield f"{name:16} {len(lines):>5} {sum(lines):>7,}  {to or '-'}"
    every = [each for lines in files.values() for each in lines]
    count = sum(sum(to.values()) for to in arrows.values())
    yield f"{'all':16} {len(every):>5} {sum(every):>7,}  {count}"
    if len(every) > 1:
        ninth = quantiles(every, n=10)[-1]
        yield f"a file: median {median(every):.0f} lines, 9 of 10 up to {ninth:.0f}, longest {max(every)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Files, lines and imports between rooms.")
    parser.add_argument("room", nargs="?", help="a room, whose folders and files to print")
    parser.add_argument("--source", type=Path, default=SOURCE, help="the package")
    asked = parser.parse_args()
    if asked.room is not None and not (asked.source / asked.room).is_dir():
        parser.error(f"{asked.source} has no folder {asked.room!r}")
    print("\n".join(shape(asked.source, asked.room)))


if __name__ == "__main__":
    main()
