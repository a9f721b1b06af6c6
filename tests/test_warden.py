"""A test process that ends without its teardown leaves nothing running."""

import signal
import subprocess
import sys

import pytest

from tests.pages import ROOT
from tests.process import until
from tests.process_tree import runs

DIES = """
import os, signal, subprocess, sys
from tests import warden
warden.watch()
sleep = "import time; time.sleep(3600)"
server = subprocess.Popen([sys.executable, "-c", sleep], start_new_session=True, stdout=subprocess.DEVNULL)
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the warden looks at /proc")
def test_what_a_killed_test_process_has_started_ends() -> None:
    died = subprocess.run([sys.executable, "-c", DIES], capture_output=True, text=True, cwd=ROOT)
    assert died.returncode == -signal.SIGKILL, died.stderr
    until(lambda: not runs(int(died.stdout)), "its server has ended")
