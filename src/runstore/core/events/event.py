"""An event of this release, a custom one, and one of a newer release."""

import re
from typing import Any, ClassVar

from msgspec import Struct

from runstore.core.errors import InvalidEvent

EventType = str
CUSTOM_TYPE = re.compile(r"custom\.[A-Za-z0-9_.-]{1,120}")


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact that is not yet stored. `type` is its tag on the wire and in the log."""

    type: ClassVar[EventType] = ""
    version: ClassVar[int] = 1
    ends: ClassVar[bool] = False  # closes the run: only `run.deleted` and `run.purged` may follow

    def levels(self, field: str) -> int:
        """The lists and objects that a field has around a value of an agent or a user, which do not count."""
        return 0


class Custom(Struct, frozen=True):
    """An event that a user's agent or an external producer appends, with a `custom.*` type of its own."""

    type: EventType
    data: Any = None

    def __post_init__(self) -> None:
        if not CUSTOM_TYPE.fullmatch(self.type):
            raise InvalidEvent(
                f"event type {self.type[:100]!r} is not allowed: "
                "it must be 'custom.' and 1 to 120 letters, digits, '_', '.' or '-'"
            )


class Posted(Custom, frozen=True, kw_only=True):
    """A custom event that a user appended, and not the run's own agent. Version 2 of `custom.*`.

    It is stored as `{"by": …, "key_id": …, "data": …}`. `key_id`: the API key of the request, if it had one.
    """

    by: str
    key_id: str | None = None


class Unknown(Struct, frozen=True):
    """A stored event of a type that this release does not know; it is passed on without being read."""

    type: EventType
    data: Any
