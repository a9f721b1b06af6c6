"""What the process of submitted code has no right to, looked at without a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.polling import DEADLINE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

SERVER = """
import asyncio, sys, tempfile
from runstore.runtime.code.process import CodeLimits, CodeProcess

async def main():
    tempfile.tempdir = sys.argv[1]
    process = CodeProcess(sys.argv[2], None, CodeLimits())
    while read := await process.read():
        sys.stdout.buffer.write(read)
    assert await process.ended() == 0, process.last_errors()
    process.close()

asyncio.run(main())
"""
STATUS = """
import json
status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([status[name].split() for name in ("NoNewPrivs", "Groups", "CapEff", "Seccomp")]))
"""
SOCKETS = """
import json, socket
refused = []
for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, 32, 33):
    for kind in (socket.socketpair()[0], socket.socket()):
        try:
            kind.setsockopt(socket.SOL_SOCKET, option, 1 << 30)
        except PermissionError:
            refused.append(option)
socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
socket.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 3)  # 7, as SO_SNDBUF
print(json.dumps(refused))
"""


def printed(folder: Path, code: str) -> list[object]:
    """What submitted code prints. If the server is root, it has groups, as a service may have."""
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(folder), code],
        extra_groups=[4, 27] if os.geteuid() == 0 else None,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def test_it_can_get_no_more_rights_and_has_none_of_the_servers_groups(tmp_path: Path) -> None:
    groups = [] if os.geteuid() == 0 else [str(group) for group in os.getgroups()]
    assert printed(tmp_path, STATUS) == [["1"], groups, ["0" * 16], ["2"]]


def test_it_cannot_make_the_buffers_of_its_sockets_larger(tmp_path: Path) -> None:
    assert printed(tmp_path, SOCKETS) == [7, 7, 8, 8, 32, 32, 33, 33]
