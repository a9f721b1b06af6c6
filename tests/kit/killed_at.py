"""A command of runstore, killed before its first statement that changes, then before its second, and so on.

`python killed_at.py COMMAND…` imports once, and forks for each try. After a kill it waits for a line.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

CHANGES = ("ALTER", "CREATE", "DELETE", "DROP", "INSERT", "LOCK", "ROLLBACK", "SAVEPOINT", "UPDATE")


async def killed_at_each_statement(*command: str) -> AsyncIterator[int]:
    """Yields after each kill the number of the statement; ends when the command has come to its end."""
    from tests.kit.process import environment

    arguments = [sys.executable, __file__, *command]
    with subprocess.Popen(
        arguments, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        for number in count(1):
            lines = iter(process.stdout.readline, "")
            if (await asyncio.to_thread(_result, lines)) != "killed\n":
                break
            yield number
            print(file=process.stdin, flush=True)
    assert process.returncode == 0


def _result(lines: Any) -> str:
    """The line that says how a try ended, after the output of the command."""
    return next((line for line in lines if line in ("killed\n", "done\n")), "")


def main() -> int:
    import runstore.app
    import runstore.maintenance.partitioning  # noqa: F401
    from runstore.cli.main import main as command

    for number in count(1):
        if not (child := os.fork()):
            _kill_before(number)
            command()
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print("done", flush=True)
            return os.waitstatus_to_exitcode(status)
        print("killed", flush=True)
        sys.stdin.readline()
    return 1


def _kill_before(number: int) -> None:
    from sqlalchemy import Engine, event

    left = number

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal left
        left -= statement.split(maxsplit=1)[0] in CHANGES
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", look)


if __name__ == "__main__":
    sys.exit(main())
