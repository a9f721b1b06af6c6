"""What some tests need. Without it a test is skipped and says why; under CI=true a missing tool fails it."""

import os
import re
import shutil
from typing import NoReturn

import pytest

# What programs say where the kernel, or a container's rules, refuse a call: EPERM, EACCES, a limit of zero.
DENIED = re.compile("not permitted|permission denied|No space left on device", re.IGNORECASE)


def require(tool: str) -> str:
    """Where `tool` is."""
    return shutil.which(tool) or lacking(f"{tool} is not installed")


def lacking(reason: str) -> NoReturn:
    """End a test that cannot run here."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)


def forbidden(reason: str) -> NoReturn:
    """End a test that this machine does not permit, whatever is installed: a container without privileges."""
    pytest.skip(reason)
