"""An item of the audit log names the user who caused its event, for every type that says so."""

from typing import Any

import msgspec
import pytest

from runstore.core.audit import AuditEvent, AuditItem, audit_event, audit_line
from runstore.core.codec import RecordedEvent, encode
from runstore.core.events import (
    EVENT_CLASSES,
    AuditErased,
    AuditProjection,
    AuditRead,
    CancelRequested,
    Deleted,
    Event,
    InputAdded,
    InputGiven,
    Posted,
    Purged,
)
from runstore.core.ids import new_run_id

CAUSED: list[Event | Posted] = [
    CancelRequested(by="bob", reason="user"),
    InputGiven(request_id="1.1", answer={"approve": True}, by="bob"),
    InputAdded(content="Only the inner ones.", by="bob"),
    Deleted(by="bob"),
    Purged(
        by="bob", user_id="ann", agent="demo", status="success", created_at=1, completed_at=2, counts={},
    ),
    AuditRead(by="bob", what="record"),
    AuditErased(by="bob", reason="request 4711", user_id="ann", runs=1, events=3),
    AuditProjection(by="bob", command="pause", projection="usage"),
    Posted("custom.note", {"by": "ann"}, by="bob"),
]  # fmt: skip


def item(event: Any) -> AuditItem:
    stored = encode(event)
    recorded = RecordedEvent(
        new_run_id(), 3, 17, stored.type, stored.version, stored.ends, 1_795_178_840_001, stored.data
    )
    return AuditItem(recorded, "ann", "demo")


def test_every_class_with_a_field_by_has_a_case_here() -> None:
    named = {cls for cls in EVENT_CLASSES.values() if "by" in {f.name for f in msgspec.structs.fields(cls)}}
    assert named == {type(event) for event in CAUSED} - {Posted}


@pytest.mark.parametrize("event", CAUSED, ids=lambda event: event.type)
def test_an_item_names_the_user_who_caused_its_event(event: Event) -> None:
    line = msgspec.json.decode(audit_line(item(event)), type=AuditEvent)
    assert line.by == item(event).by == audit_event(item(event)).by == "bob"


def test_an_answer_by_default_names_no_user() -> None:
    given = item(InputGiven(request_id="1.1", answer="no"))
    assert given.by is None
    assert b'"by"' not in audit_line(given)
