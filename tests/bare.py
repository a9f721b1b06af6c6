"""Plays a machine with Python, make and git alone: `make test ARGS="-p tests.bare"`.

No program is found but a shell's own, and no server answers. A test that needs one is skipped, as on such a
machine, and has to leave nothing behind.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from sqlalchemy import make_url

from tests.servers import owner
from tests.servers.shared import SHARED

# Of any POSIX system: runstore clears submitted code's folders with them. And of any Linux.
PROGRAMS = ("sh", "chmod", "rm", "mount", "umount")
NOBODY = 1  # a port that no server listens on


def hide() -> None:
    """Hide programs and servers from this process, and from all that it starts."""
    folder = Path(tempfile.mkdtemp(prefix="runstore-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in PROGRAMS:
        if found := shutil.which(name, path=os.defpath):
            (folder / name).symlink_to(found)
    os.environ["PATH"] = str(folder)
    os.environ.pop("CI", None)  # which makes a failure of each skip
    for variable, default in SHARED.values():
        os.environ[variable] = make_url(default).set(port=NOBODY).render_as_string(hide_password=False)
    owner.PLACES = ()


hide()
