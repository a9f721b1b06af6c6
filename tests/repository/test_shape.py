"""The command that prints the shape of the code."""

import subprocess
import sys
from pathlib import Path

SHAPE = Path(__file__).parents[2] / "tools" / "shape.py"


def shape(*arguments: str) -> tuple[int, list[list[str]]]:
    """Its exit code, and the words of each line of its output."""
    done = subprocess.run([sys.executable, SHAPE, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, [line.split() for line in done.stdout.splitlines()]


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)


def test_it_prints_files_lines_and_arrows_of_each_room(tmp_path: Path) -> None:
    package = tmp_path / "app"
    write(package, __init__="", main="import app.web.pages\nfrom app.core import facts, rules\n")
    write(package / "core", __init__="", facts="import os\n", rules="from app.core.facts import A\n")
    write(package / "web", __init__="", pages="def f():\n    from app.core.facts import A\n    return A\n")
    assert shape("--source", str(package)) == (
        0,
        [
            ["room", "files", "lines", "arrows", "to"],
            ["web", "2", "3", "core", "1"],
            ["core", "3", "2", "-"],
            ["main", "1", "2", "core", "2,", "web", "1"],
            ["__init__", "1", "0", "-"],
            ["all", "7", "7", "4"],
            ["a", "file:", "median", "1", "lines,", "9", "of", "10", "up", "to", "3,", "longest", "3"],
        ],
    )
    code, lines = shape("core", "--source", str(package))
    assert code == 0
    assert ["rules", "1", "1", "facts", "1"] in lines


def test_a_room_that_is_not_there_is_an_error() -> None:
    assert shape("attic") == (2, [])


def test_the_core_imports_no_other_room() -> None:
    _, lines = shape()
    assert [line[3:] for line in lines if line[0] == "core"] == [["-"]]
