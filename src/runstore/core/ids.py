"""Run ids: UUIDv7 (RFC 9562), so that they sort by the time of their making; opaque outside."""

from uuid import UUID

import uuid_utils

from runstore.core.errors import RunNotFound


def new_run_id() -> str:
    return str(uuid_utils.uuid7())


def parse_run_id(text: str) -> str:
    """The canonical form of a run id that came from outside.

    Raises:
        RunNotFound: `text` is no UUID, so no run can have it.
    """
    try:
        return str(UUID(text))
    except ValueError:
        raise RunNotFound(f"there is no run {text[:100]!r}: a run id is a UUID") from None
