"""The facts of a run: their tags never change, and each one survives a round trip."""

import re
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.codec import decode, encode
from runstore.core.errors import InvalidEvent, RunNotFound
from runstore.core.events import (
    CUSTOM_TYPE,
    EVENT_CLASSES,
    STREAMED_TYPES,
    TEXT_TYPES,
    AgentEvent,
    Custom,
    Ending,
    Event,
    MessageRange,
    ModelUsage,
    Queued,
    Started,
    ToolEvent,
    ToolUsage,
    WithheldText,
)  # fmt: skip
from runstore.core.ids import new_run_id, parse_run_id

# Released tags. One may be added; none may go or change its meaning.
TAGS = {
    "lifecycle.queued": "Queued",
    "lifecycle.started": "Started",
    "lifecycle.completed": "Completed",
    "lifecycle.failed": "Failed",
    "lifecycle.cancelled": "Cancelled",
    "cancel.requested": "CancelRequested",
    "agent.started": "AgentStarted",
    "agent.finished": "AgentFinished",
    "llm.token": "Token",
    "llm.reasoning": "Reasoning",
    "llm.request": "Request",
    "llm.context": "Context",
    "llm.message": "Message",
    "llm.usage": "Usage",
    "llm.discarded": "Discarded",
    "llm.redacted": "Redacted",
    "llm.retrying": "Retrying",
    "llm.input_replaced": "InputReplaced",
    "llm.context_reduced": "ContextReduced",
    "tool.started": "ToolStarted",
    "tool.progress": "ToolProgress",
    "tool.finished": "ToolFinished",
    "tool.failed": "ToolFailed",
    "input.requested": "InputRequested",
    "input.given": "InputGiven",
    "input.added": "InputAdded",
    "run.deleted": "Deleted",
    "run.purged": "Purged",
    "audit.read": "AuditRead",
    "audit.erased": "AuditErased",
    "audit.projection": "AuditProjection",
}

json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    Any: json,
    str: st.text(),
    int: st.integers(0, 2**53),
    list[int]: st.lists(st.integers(0, 2**53), max_size=3),
    float: st.floats(0, 2**53),
    bool: st.booleans(),
    str | None: st.none() | st.text(),
    int | None: st.none() | st.integers(0, 2**53),
    typing.Literal["session"] | None: st.sampled_from([None, "session"]),
    list[dict[str, Any]]: st.lists(st.dictionaries(st.text(), json, max_size=3), max_size=3),
    dict[str, Any]: st.dictionaries(st.text(), json, max_size=3),
    dict[str, Any] | None: st.none() | st.dictionaries(st.text(), json, max_size=3),
    str | list[dict[str, Any]]: st.text() | st.lists(st.dictionaries(st.text(), json), max_size=3),
    dict[str, str]: st.dictionaries(st.text(), st.text(), max_size=3),
    dict[str, int]: st.dictionaries(st.text(), st.integers(0, 2**53), max_size=3),
    list[ModelUsage]: st.lists(st.builds(ModelUsage, st.text(), st.integers(0, 2**53)), max_size=2),
    list[MessageRange]: st.lists(
        st.builds(MessageRange, last=st.tuples(st.integers(0, 9), st.integers(0, 9))), max_size=2
    ),
    list[WithheldText]: st.lists(
        st.builds(WithheldText, st.text(), st.integers(0, 2**53), st.none() | st.text()), max_size=2
    ),
    list[ToolUsage]: st.lists(st.builds(ToolUsage, st.text(), st.text(), st.integers(0, 9)), max_size=2),
}


def strategy(hint: Any) -> st.SearchStrategy[Any]:
    options = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else None
    return st.sampled_from(options) if options else VALUES[hint]


def build(cls: type[Event]) -> st.SearchStrategy[Event]:
    fields = {field.name: strategy(field.type) for field in msgspec.structs.fields(cls)}
    return st.builds(cls, **fields)


def test_the_tags_are_these_and_stay() -> None:
    assert {type: cls.__name__ for type, cls in EVENT_CLASSES.items()} == TAGS


def test_every_event_class_is_in_the_union() -> None:
    def concrete(cls: type[Event]) -> set[type[Event]]:
        below = {found for child in cls.__subclasses__() for found in concrete(child)}
        return below if cls in (Event, Ending, AgentEvent, ToolEvent) else {cls, *below}

    ours = {cls for cls in concrete(Event) if cls.__module__.startswith("runstore.core.events.")}
    assert ours == set(EVENT_CLASSES.values())


def test_three_events_end_a_run() -> None:
    ends = {type for type, cls in EVENT_CLASSES.items() if cls.ends}
    assert ends == {"lifecycle.completed", "lifecycle.failed", "lifecycle.cancelled"}


def test_only_pieces_of_the_models_answer_are_streamed_text() -> None:
    assert {"llm.token", "llm.reasoning"} == TEXT_TYPES
    assert TEXT_TYPES | {"llm.redacted"} == STREAMED_TYPES


@pytest.mark.parametrize("cls", EVENT_CLASSES.values(), ids=lambda cls: cls.type)
@given(data=st.data())
def test_every_event_comes_back_as_it_went_in(cls: type[Event], data: st.DataObject) -> None:
    event = data.draw(build(cls))
    encoded = encode(event)
    assert (encoded.type, encoded.version, encoded.ends) == (cls.type, cls.version, cls.ends)
    assert decode(encoded.type, encoded.version, encoded.data) == event


@pytest.mark.parametrize("cls", EVENT_CLASSES.values(), ids=lambda cls: cls.type)
def test_every_event_is_immutable(cls: type[Event]) -> None:
    assert cls.__struct_config__.frozen


def test_events_do_not_share_their_defaults() -> None:
    one, other = (Queued(agent="demo", user_id="local", input=None) for _ in range(2))
    one.metadata["changed"] = True
    assert other.metadata == {}


@pytest.mark.parametrize("reason", ["claimed", "adopted", "handed_over"])
def test_a_run_is_started_for_one_of_three_reasons(reason: Any) -> None:
    started = encode(Started(worker_id="worker-1", attempt=1, reason=reason))
    assert decode(started.type, 1, started.data) == Started(worker_id="worker-1", attempt=1, reason=reason)
    with pytest.raises(msgspec.ValidationError):
        decode(started.type, 1, started.data.replace(reason.encode(), b"whim"))


# ---- custom events ----


@pytest.mark.parametrize("type", ["custom.a", "custom.A.b_c-1", f"custom.{'x' * 120}", "custom.."])
def test_a_custom_type_may_be_anything_plain(type: str) -> None:
    assert Custom(type, 1).type == type


@pytest.mark.parametrize(
    "type",
    [
        "", "custom", "custom.", "Custom.a", "llm.token", "custom.a b", "custom.a\n", "custom.é",
        "custom.a\nevent: b", f"custom.{'x' * 121}", "xcustom.a", "run.deleted",
    ],
)  # fmt: skip
def test_no_other_type_is_custom(type: str) -> None:
    with pytest.raises(InvalidEvent):
        Custom(type, 1)


@given(st.from_regex(CUSTOM_TYPE, fullmatch=True))
def test_a_custom_type_fits_a_frame_and_its_column(type: str) -> None:
    assert Custom(type).type == type
    assert len(type) <= 128
    assert re.fullmatch(r"[\w.-]+", type, re.ASCII)


# ---- run ids ----


def test_run_ids_sort_by_the_time_of_their_making() -> None:
    ids = [new_run_id() for _ in range(1_000)]
    assert ids == sorted(set(ids))


def test_a_run_id_from_outside_is_made_canonical() -> None:
    run_id = new_run_id()
    assert parse_run_id(run_id) == parse_run_id(run_id.upper()) == run_id


@pytest.mark.parametrize("form", ["{{{}}}", "urn:uuid:{}", "{}\n"])
def test_a_run_id_has_one_notation(form: str) -> None:
    with pytest.raises(RunNotFound):
        parse_run_id(form.format(new_run_id()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "no uuid",
        "0192f0c12d3e7f458a6b0123456789ab",
        "٣" * 32,
        "0192f0c1-2d3e-7f45-8a6b-0123456789a",
        pytest.param("x" * 10_000, id="long"),
    ],
)
def test_an_id_that_is_not_a_uuid_is_no_run(text: str) -> None:
    with pytest.raises(RunNotFound) as error:
        parse_run_id(text)
    assert len(str(error.value)) < 200
