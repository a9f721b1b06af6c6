"""A page's commands, as a reader runs them: in a terminal, with the output that the page shows.

A block of `sh` is run. The block without a language that follows it is its output; without one, the
commands print nothing. In an output

- `…` stands for any text, a line of `…` for any lines, a last line of `…` for a program that goes on running:
  the page's next commands are then typed into another terminal;
- a last line of `^C` says that the reader types it, once more has come than the lines above it;
- ids and times differ each time, and so do seqs below a line of `…`; an id that the page shows twice must
  come twice.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import NamedTuple, Self

from tests.kit.pages import FENCE
from tests.kit.process import DEADLINE_S

COLUMNS = 100
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z"
SEQ = r'(?<=^id: )\d+|(?<="seq":)\d+'
VARIABLE = re.compile(rf"(?P<left_out>^…\n|…)|(?P<uuid>{UUID})|(?P<time>{TIME})|(?P<seq>{SEQ})", re.M)


class Block(NamedTuple):
    """Commands, and what the page shows below them."""

    commands: str
    output: str


def blocks(text: str) -> list[Block]:
    """The commands of a page, in order."""
    fences = list(FENCE.finditer(text))
    found = []
    for place, fence in enumerate(fences):
        if fence[1] == "sh":
            after = fences[place + 1] if place + 1 < len(fences) else None
            is_output = after and not after[1] and not text[fence.end() : after.start()].strip()
            found.append(Block(fence[2], after[2] if after and is_output else ""))
    return found


class Expected:
    """An output as a pattern; `known`: varying texts of the page, with their values in this run."""

    def __init__(self, output: str, known: dict[str, str]) -> None:
        self._known = known
        self._named: dict[str, str] = {}  # by the group that matches it
        lines = output.splitlines(keepends=True)
        self.interrupts = lines[-1:] == ["^C\n"]
        self.goes_on = lines[-1:] == ["…\n"]
        above = lines[:-1] if self.interrupts or self.goes_on else lines
        self._pattern = self._compiled("".join(above).rstrip("\n"))

    def begins(self, screen: str) -> bool:
        """Whether the screen begins with the output; remembers what varies."""
        return self._remember(re.match(self._pattern + (r"\s*\S" if self.interrupts else r"\n"), screen))

    def is_all(self, screen: str) -> bool:
        return self._remember(re.fullmatch(self._pattern + r"\s*", screen))

    def _remember(self, match: re.Match[str] | None) -> bool:
        if match:
            self._known |= {printed: match[group] for group, printed in self._named.items()}
        return match is not None

    def _compiled(self, text: str) -> str:
        pattern, end, some_left_out = "", 0, False
        for found in VARIABLE.finditer(text):
            pattern += re.escape(text[end : found.start()])
            end = found.end()
            kind, printed = str(found.lastgroup), found[0]
            if printed == "…\n":
                some_left_out = True
                pattern += r"(?:.*\n)*?"
            elif kind == "left_out":
                pattern += r".*"
            elif kind == "time":
                pattern += TIME
            elif kind == "seq" and not some_left_out:
                pattern += printed
            else:
                pattern += self._one(printed, UUID if kind == "uuid" else r"\d+")
        return pattern + re.escape(text[end:])

    def _one(self, printed: str, pattern: str) -> str:
        if printed in self._known:
            return re.escape(self._known[printed])
        for group, known in self._named.items():
            if known == printed:
                return f"(?P={group})"
        group = f"v{len(self._named)}"
        self._named[group] = printed
        return f"(?P<{group}>{pattern})"


class Terminal:
    """A shell in a pseudo-terminal. Its screen shows what a person sees, without the commands."""

    _numbers = count(1)

    def __init__(self, folder: Path, scripts: Path, variables: Mapping[str, str], patience_s: float) -> None:
        self._scripts = scripts
        self._patience_s = patience_s
        self._end = f"-- end of block {os.urandom(8).hex()} --"
        self._screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE, stdout=inner, stderr=inner, cwd=folder, env=dict(variables),
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(1, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(inner)
        self._type("trap : INT")  # the shell goes on when ^C ends the program that it waits for

    def run(self, block: Block, known: dict[str, str]) -> bool:
        """Run commands and compare what they say; whether the terminal is free again."""
        expected = Expected(block.output, known)
        script = self._scripts / f"{next(self._numbers)}.sh"
        script.write_text(block.commands)
        self._type(f". '{script}' </dev/tty; printf '\\n%s\\n' '{self._end}'")
        said = ""
        for said in self._growing():
            if (expected.interrupts or expected.goes_on) and expected.begins(said):
                break
            if self._end in said:
                said = said.partition(self._end)[0]
                assert expected.is_all(said), (
                    f"$ {block.commands}{said}\n--- but the page has\n{block.output}"
                )
                return True
        else:
            raise AssertionError(
                f"$ {block.commands}{said}\n--- and nothing more; the page has\n{block.output}"
            )
        if expected.goes_on:
            return False
        os.write(self._screen, b"\x03")
        said = next((more for more in self._growing() if self._end in more), "")
        assert "^C" in said, f"^C does not end {block.commands}"
        return True

    def close(self) -> None:
        """End the shell, and all processes of it that still run."""
        for process in (*processes_of(self._shell.pid), self._shell.pid):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._shell.wait()
        os.close(self._screen)
        assert self._shell.stdin
        self._shell.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _type(self, command: str) -> None:
        assert self._shell.stdin
        self._shell.stdin.write(f"{command}\n".encode())
        self._shell.stdin.flush()

    def _growing(self) -> Iterator[str]:
        """The screen's text so far, each time that more arrives, until it stays the same."""
        said = b""
        while select.select([self._screen], [], [], self._patience_s)[0]:
            said += os.read(self._screen, 65_536)
            yield said.replace(b"\r\n", b"\n").decode(errors="replace").lstrip("\n")


def processes_of(session: int) -> list[int]:
    """The processes of a shell's session, those in the background included."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,sess="], capture_output=True, text=True, check=True)
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [int(pid) for pid, sess in pairs if sess == str(session)]


def follow(
    text: str, folder: Path, scripts: Path, variables: Mapping[str, str], patience_s: float = DEADLINE_S
) -> int:
    """Run all commands of a page in `folder`; returns how many blocks there were.

    patience_s: how long a screen may stand still before the test fails.
    """
    known: dict[str, str] = {}
    found = blocks(text)
    with ExitStack() as terminals:

        def new() -> Terminal:
            return terminals.enter_context(Terminal(folder, scripts, variables, patience_s))

        terminal = new()
        for block in found:
            if not terminal.run(block, known):
                terminal = new()
    return len(found)
