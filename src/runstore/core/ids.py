"""Run ids: UUIDv7 (RFC 9562), which sort by creation time; opaque to clients."""

import re
from uuid import UUID

import uuid_utils

from runstore.core.errors import RunNotFound

RANDOM_BITS = 80  # random bits of a UUIDv7, after its time
LAST_TIME = (1 << 48) - 1  # the latest time in a UUIDv7, in milliseconds since 1970
UUID_TEXT = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def new_run_id() -> str:
    return str(uuid_utils.uuid7())


def first_run_id(at: int) -> str:
    """The lowest id of a run created at a time: UTC, milliseconds since 1970."""
    return str(UUID(int=at << RANDOM_BITS))


def parse_uuid(text: str) -> str | None:
    """The canonical form of an id from outside: RFC 9562, 4, its text in upper or lower case."""
    return text.lower() if UUID_TEXT.fullmatch(text) else None


def parse_run_id(text: str) -> str:
    """The canonical form of a run id from outside.

    Raises:
        RunNotFound: `text` is not a UUID in that notation, so no run can have it.
    """
    if (run_id := parse_uuid(text)) is None:
        raise RunNotFound(f"there is no run {text[:100]!r}: a run id is a UUID")
    return run_id
