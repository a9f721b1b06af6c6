"""Run ids: UUIDv7 (RFC 9562), which sort by creation time; opaque to clients."""

import re
from uuid import UUID

import uuid_utils

from runstore.core.errors import RunNotFound

RANDOM_BITS = 80  # random bits of a UUIDv7, after its time
CLOCKS_MS = 600_000  # milliseconds by which the clocks of two processes that make ids may differ
LAST_TIME = (1 << 48) - 1  # the latest time in a UUIDv7, in milliseconds since 1970
UUID_TEXT = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def new_run_id() -> str:
    return str(uuid_utils.uuid7())


def first_run_id(at: int) -> str:
    """The lowest id of a run created at a time, or at the nearest one that an id can hold.

    Args:
        at: UTC, milliseconds since 1970.
    """
    return str(UUID(int=min(max(at, 0), LAST_TIME) << RANDOM_BITS))


# The stream of a run's reads has the id of the run with another version: 8 (RFC 9562, 5.8) instead of 7.
VERSION_AT = 14  # index of the version's digit in a UUID's text
READS_VERSION = "8"
READS_OF_ALL = "00000000-0000-8000-8000-000000000000"  # the stream of searches, which read many runs


def reads_id(run_id: str) -> str:
    """The id of the stream of a run's reads."""
    return f"{run_id[:VERSION_AT]}{READS_VERSION}{run_id[VERSION_AT + 1 :]}"


def read_run_id(stream_id: str) -> str:
    """The run of such a stream; any other id is its own."""
    if stream_id[VERSION_AT] != READS_VERSION:
        return stream_id
    return f"{stream_id[:VERSION_AT]}7{stream_id[VERSION_AT + 1 :]}"


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
    if run_id[VERSION_AT] == READS_VERSION:
        raise RunNotFound(f"there is no run {run_id}: it is a stream of the audit log")
    return run_id
