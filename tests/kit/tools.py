"""Programs that some tests need. Without them a test is skipped and says so; under CI=true it fails."""

import os
import shutil
from typing import NoReturn

import pytest


def require(tool: str) -> str:
    """Where `tool` is."""
    return shutil.which(tool) or lacking(f"{tool} is not installed")


def lacking(reason: str) -> NoReturn:
    """End a test that cannot run here."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)
