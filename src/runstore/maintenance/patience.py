"""Retries of small transactions while other writers block the database, or it refuses writes."""

import time
from collections.abc import Callable
from typing import TypeVar

from runstore.core.errors import LogUnavailable
from runstore.database.database import Database

RETRY_S = 0.1  # seconds before another try
PATIENCE_S = 30.0  # seconds of tries; then the error is raised

T = TypeVar("T")


def retry_while_transient(database: Database, work: Callable[[], T]) -> T:
    """Do repeatable work, and retry it as long as its error may pass."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except Exception as error:
            passes = isinstance(error, LogUnavailable) or database.may_pass(error)
            if not passes or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_S)
