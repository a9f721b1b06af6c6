"""A test process that ends without its teardown leaves nothing running."""

import signal
import subprocess
import sys

import pytest

from tests.kit.pages import ROOT
from tests.kit.process import until
from tests.kit.process_tree import runs
from tests.servers.owner import program

STARTS = """
import os, signal, subprocess, sys
from tests.kit import warden
with warden.watched():
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    silent = {{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
    server = subprocess.Popen(command, start_new_session=True, **silent)
    print(server.pid, flush=True)
    {end}
"""


REDIS = """
import os, signal
from tests.kit import warden
from tests.servers.redis import OwnRedis
with warden.watched(), OwnRedis() as redis:
    print(redis.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the warden looks at /proc")


@on_linux
@pytest.mark.parametrize(
    ("end", "code"), [("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL), ("server.returncode = 0", 0)]
)
def test_processes_of_a_test_process_end_with_it_though_nothing_closes_them(end: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS.format(end=end)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == code, done.stderr
    until(lambda: not runs(int(done.stdout)), "its server has ended")


@on_linux
def test_a_redis_server_is_known_though_it_may_name_itself() -> None:
    program("redis-server")
    done = subprocess.run([sys.executable, "-c", REDIS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    until(lambda: not runs(int(done.stdout)), "it has ended")
