"""As whom a server of a test's own runs, and where its program is."""

import atexit
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from tests.kit.tools import lacking

PLACES: tuple[str, ...] = ("/usr/local/sbin", "/usr/sbin", "/usr/lib/postgresql/*/bin")  # in addition to PATH


class Owner:
    """The owner of a server's files and processes: the user who runs the tests, but never root."""

    def __init__(self, account: pwd.struct_passwd | None) -> None:
        self._account = account

    def folder(self) -> Path:
        """A new folder; not pytest's, whose parents only its own user may enter."""
        folder = Path(tempfile.mkdtemp(prefix="runstore-test-"))
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        return folder

    def kept_folder(self) -> Path:
        """A new folder that goes when the test process ends."""
        folder = self.folder()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        if self._account is not None:
            ids = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
            options = ids | options
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd="/", **options)

    def run(self, *command: str) -> None:
        """Run a program to its end; it has to succeed."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate()
        assert process.returncode == 0, f"{command[0]}:\n{output.decode(errors='replace')}"


def owner(account: str) -> Owner:
    if os.geteuid() != 0:
        return Owner(None)
    for name in (account, "nobody"):
        try:
            return Owner(pwd.getpwnam(name))
        except KeyError:
            continue
    lacking(f"root may not run this server, and there is no user {account} or nobody")


def program(name: str) -> str:
    """Where a server's program is."""
    folders = [folder for place in PLACES for folder in sorted(glob(place), reverse=True)]
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))
    return found or lacking(f"{name} is not installed")
