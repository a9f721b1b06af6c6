"""The command that counts hard turns of phrase."""

import subprocess
import sys
from pathlib import Path

import pytest

IDIOMS = Path(__file__).parents[2] / "tools" / "idioms.py"


def found(root: Path, path: str, text: str) -> list[str]:
    """The occurrences that it shows in a checkout with one file: the file and the line of each."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    done = subprocess.run(
        [sys.executable, IDIOMS, "-v", "--root", root], capture_output=True, text=True, check=True
    )
    return [line.partition(": ")[0] for line in done.stdout.splitlines() if ": [" in line]


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        ("src/runstore/cli/main.py", '"""Nobody reads this."""\n', 1),
        ("src/runstore/cli/main.py", "\nx = 1  # nobody reads this\n", 2),
        ("src/runstore/cli/main.py", '\nprint("somebody else was first")\n', 2),
        ("src/runstore/cli/main.py", '\nprint(f"{x}: nobody can read {x}")\n', 2),
        ("tests/test_main.py", "\ndef test_nobody_reads_this() -> None: ...\n", 2),
        ("docs/page.md", "```sh\ncd /tmp\n```\n\nNobody reads this.\n", 5),
        ("README.md", "Nobody reads this.\n", 1),
    ],
    ids=["docstring", "comment", "string", "f-string", "name of a test", "page", "readme"],
)
def test_a_turn_is_found_once_in(tmp_path: Path, path: str, text: str, line: int) -> None:
    assert found(tmp_path, path, text) == [f"{path}:{line}"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("src/runstore/main.py", 'x = "nobody"\n'),
        ("src/runstore/main.py", "x = \"SELECT name FROM users WHERE name = 'nobody'\"\n"),
        ("docs/page.md", "```sh\necho nobody reads this\n```\n"),
    ],
    ids=["a name", "sql", "code of a page"],
)
def test_no_turn_is_found_in(tmp_path: Path, path: str, text: str) -> None:
    assert found(tmp_path, path, text) == []
