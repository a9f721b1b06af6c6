"""The audit log: every run's events in the order of the whole log, each with its run's user and agent."""

from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.codec import RecordedEvent, envelope, one_line
from runstore.core.events import EVENT_CLASSES, EventType
from runstore.core.records import raw_record_of, record_of

# Types with a field `by`: the user who caused the event. The view `audit_events` lists them, too.
SAY_WHO = frozenset(type for type, cls in EVENT_CLASSES.items() if "by" in cls.__struct_fields__)


class AuditQuery(Struct, frozen=True, kw_only=True):
    """A filter of the audit log: every given field must match.

    `types`: exact ones, or families such as `tool.*`; nothing else passes. `since` and `until`: when the
    event happened, ms since 1970, both inclusive. `contains`: a text in the event's data; case matters. The
    other fields are those of the event's run, or of the run that was read.
    """

    types: tuple[EventType, ...] = ()
    user_id: str | None = None
    agent: str | None = None
    session_id: str | None = None
    workspace_id: str | None = None
    run_id: str | None = None
    since: int | None = None
    until: int | None = None
    contains: str | None = None

    @property
    def of_run(self) -> dict[str, str]:
        """The conditions on the event's run."""
        fields = {
            "user_id": self.user_id, "agent_name": self.agent, "session_id": self.session_id,
            "workspace_id": self.workspace_id, "run_id": self.run_id,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


class AuditEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event of the audit log.

    `position`: its place in the whole log, the cursor. `user_id`, `agent`: those of its run. `by`: who caused
    it, if the event says so; `key_id`: with which API key, of a custom event. `at`: RFC 3339, UTC.
    """

    position: int
    run_id: str
    seq: int
    type: EventType
    at: str
    user_id: str
    agent: str
    by: str | None = None
    key_id: str | None = None
    data: Any


class AuditItem(Struct, frozen=True, gc=False):
    """An event as stored, with the user and the agent of its run."""

    event: RecordedEvent
    user_id: str
    agent: str

    @property
    def by(self) -> str | None:
        """The user who caused the event, if the event names one."""
        return self._said_by or raw_record_of(self.event).by

    @property
    def _said_by(self) -> str | None:
        return _read_by(self.event.data).by if self.event.type in SAY_WHO else None


class _By(Struct):
    by: str | None = None


_read_by = msgspec.json.Decoder(_By).decode
_encode = msgspec.json.Encoder().encode


def audit_line(item: AuditItem) -> bytes:
    """The item as one line of JSON: the event's envelope, after what the audit log adds to it."""
    said = b"" if (by := item._said_by) is None else b'"by":%b,' % one_line(_encode(by))
    whose = one_line(b'"user_id":%b,"agent":%b' % (_encode(item.user_id), _encode(item.agent)))
    return b'{"position":%d,%b,%b%b' % (item.event.position, whose, said, envelope(item.event)[1:])


def audit_event(item: AuditItem) -> AuditEvent:
    """The item, decoded."""
    event = record_of(item.event)
    return AuditEvent(
        position=item.event.position, run_id=event.run_id, seq=event.seq, type=event.type, at=event.at,
        user_id=item.user_id, agent=item.agent, by=item.by, key_id=event.key_id, data=event.data,
    )  # fmt: skip
