"""Names of databases that show their owner, so that no test run drops those of another one."""

import itertools
import os
import re
import secrets
import socket
import zlib
from collections.abc import Iterable

# Of this machine, or of this container: elsewhere the same process id is another process.
HERE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
NAME = re.compile(rf"runstore_test_{HERE}_(\d+)_\w+")
PROCESS = secrets.token_hex(3)  # an earlier process may have had this one's id
_numbers = itertools.count(1)


def new_name() -> str:
    """A unique name of a database of this process."""
    return f"runstore_test_{HERE}_{os.getpid()}_{PROCESS}_{next(_numbers)}"


def left_over(names: Iterable[str]) -> list[str]:
    """Those whose process has ended."""
    found = ((name, NAME.fullmatch(name)) for name in names)
    return [name for name, match in found if match and not _lives(int(match[1]))]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    return True
