"""Plays a machine with Python, make and git alone: `make test ARGS="-p tests.bare"`.

No program is found but a shell's own, and no server answers. A test that needs one is skipped, as on such a
machine, and has to leave nothing behind.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from tests.servers import owner
from tests.servers.shared import SHARED

PROGRAMS = ("sh", "chmod", "rm")  # of any POSIX system; runstore clears submitted code's folders with them
NOBODY = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "redis": "redis"}


def hide() -> None:
    """Hide programs and servers from this process, and from all that it starts."""
    folder = Path(tempfile.mkdtemp(prefix="runstore-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in PROGRAMS:
        if found := shutil.which(name, path=os.defpath):
            (folder / name).symlink_to(found)
    os.environ["PATH"] = str(folder)
    os.environ.pop("CI", None)  # which makes a failure of each skip
    for kind, (variable, _) in SHARED.items():
        os.environ[variable] = f"{NOBODY[kind]}://127.0.0.1:1"
    owner.PLACES = ()


hide()
