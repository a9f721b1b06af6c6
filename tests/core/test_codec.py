"""The bytes of an event: encoded once, and the same in every release, for any content of an agent."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core import codec
from runstore.core.codec import (
    MAX_EVENT_BYTES,
    TailEvent,
    decode,
    encode,
    envelope,
    json_size,
    one_line,
    to_json,
)
from runstore.core.depth import MAX_DEPTH
from runstore.core.errors import EventTooDeep, EventTooLarge, InvalidEvent
from runstore.core.events import (
    EVENT_CLASSES,
    Completed,
    Custom,
    Deleted,
    Event,
    Posted,
    Queued,
    Token,
    Unknown,
)
from runstore.core.records import EventRecord, record_of
from runstore.core.times import timestamp

RUN = "0192f0c1-2d3e-7f45-8a6b-0123456789ab"
AT = 1_795_169_410_123  # 2026-11-20T10:10:10.123Z

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
any_text = st.text(st.characters(exclude_categories=()))  # lone surrogates too


def data_of(data: Any) -> bytes:
    return encode(Custom("custom.x", data)).data


# ---- encoding ----


def test_an_event_is_its_fields_as_json_without_its_defaults() -> None:
    encoded = encode(Token(text="Hel", agent="demo"), at=AT)
    assert encoded.data == b'{"agent":"demo","text":"Hel"}'
    assert (encoded.type, encoded.version, encoded.ends, encoded.at) == ("llm.token", 1, False, AT)


def test_a_terminal_event_says_that_it_ends_the_run() -> None:
    assert encode(Completed(result={})).ends
    assert not encode(Deleted(by="local")).ends
    assert not encode(Custom("custom.completed", {"ends": True})).ends


def test_an_event_is_stamped_with_the_time_of_its_encoding() -> None:
    before = int(datetime.now(UTC).timestamp() * 1000)
    at = encode(Token(text="", agent="demo")).at
    assert before - 1 <= at <= int(datetime.now(UTC).timestamp() * 1000) + 1


@given(anything)
def test_json_data_comes_back_as_it_went_in(data: Any) -> None:
    encoded = encode(Custom("custom.x", data))
    assert decode(encoded.type, encoded.version, encoded.data) == Custom("custom.x", data)
    assert json.loads(encoded.data) == data


@given(anything)
def test_data_that_was_read_back_is_written_as_the_same_bytes(data: Any) -> None:
    stored = data_of(data)
    assert data_of(json.loads(stored)) == stored


@given(any_text)
def test_any_text_becomes_one_line_of_utf_8(text: str) -> None:
    data = data_of(text)
    assert b"\n" not in data
    assert b"\r" not in data
    assert json.loads(data.decode()) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("half \ud83d", "half \ufffd"),
        ("\ude00 other half", "\ufffd other half"),
        ("a\ud83db", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("nul \x00", "nul \x00"),
    ],
)
def test_a_lone_surrogate_is_replaced_and_a_pair_joined(text: str, stored: str) -> None:
    assert json.loads(encode(Token(text=text, agent="demo")).data)["text"] == stored
    assert json.loads(data_of({"deep": [text], text: 1})) == {"deep": [stored], stored: 1}


class Foreign:
    def __str__(self) -> str:
        return "I am foreign \ud83d"


class Model:
    """The shape of pydantic's models."""

    def model_dump(self, mode: str) -> dict[str, Any]:
        return {"mode": mode, "when": datetime(2026, 11, 20, tzinfo=UTC)}


class Refusing:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Echo:
    def model_dump(self, mode: str) -> "Echo":
        return self


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


def circle() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


MENDED = {
    "bytes": (b"\x00\xff", "AP8="),
    "bytearray": (bytearray(b"\x00\xff"), "AP8="),
    "bytes beside a surrogate": ({"raw": b"\x00", "lone": "\ud83d"}, {"raw": "AA==", "lone": "\ufffd"}),
    "foreign": (Foreign(), "I am foreign \ufffd"),
    "foreign inside": ({"deep": [Foreign()]}, {"deep": ["I am foreign \ufffd"]}),
    "model": (Model(), {"mode": "json", "when": "2026-11-20T00:00:00Z"}),
    "odd keys": ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
    "tuple as key": ({("a", 1): 2}, {"('a', 1)": 2}),
    "tuple and set": ((1, {2}), [1, [2]]),
    "not a number": (float("nan"), None),
    "decimal": (Decimal("1.10"), "1.10"),
    "big": (10**30, 10**30),
    "exception": (ValueError("what went wrong"), "what went wrong"),
}


@pytest.mark.parametrize(("data", "stored"), MENDED.values(), ids=MENDED)
def test_an_object_that_json_does_not_know_becomes_json(data: Any, stored: Any) -> None:
    assert json.loads(data_of(data)) == stored


UNSTORABLE = {
    "raises": Refusing(),
    "raises inside": [Refusing()],
    "itself again": Echo(),
    "a circle": circle(),
    "too deep": deep(5_000),
}


@pytest.mark.parametrize("data", UNSTORABLE.values(), ids=UNSTORABLE)
def test_a_value_that_json_cannot_hold_is_an_invalid_event(data: Any) -> None:
    with pytest.raises(InvalidEvent):
        data_of(data)


def test_an_events_bytes_are_bounded() -> None:
    assert len(data_of("x" * (MAX_EVENT_BYTES - 2))) == MAX_EVENT_BYTES
    with pytest.raises(EventTooLarge, match=r"custom\.x .* 1,048,577 bytes"):
        data_of("x" * (MAX_EVENT_BYTES - 1))
    with pytest.raises(EventTooLarge):
        encode(Token(text="é" * (MAX_EVENT_BYTES // 2), agent="demo"))


# ---- decoding ----


@pytest.mark.parametrize("data", [{"a": [1]}, None, "text"])
def test_a_type_of_a_newer_release_is_passed_through(data: Any) -> None:
    assert decode("lifecycle.paused", 3, json.dumps(data).encode()) == Unknown("lifecycle.paused", data)


def test_a_custom_type_is_decoded_as_custom() -> None:
    assert decode("custom.x", 1, b"[1]") == Custom("custom.x", [1])


def test_a_field_of_a_newer_release_is_ignored() -> None:
    assert decode("run.deleted", 1, b'{"by":"local","why":"tidy"}') == Deleted(by="local")


def test_a_field_that_an_older_release_did_not_write_has_its_default() -> None:
    old = decode("lifecycle.queued", 1, b'{"agent":"demo","user_id":"local","input":"hi"}')
    assert old == Queued(agent="demo", user_id="local", input="hi", metadata={}, definition={})


class NewToken(Event, frozen=True, kw_only=True):
    """A token in the shape of a later release: the stored shape has changed twice."""

    type: ClassVar[str] = "llm.token"
    version: ClassVar[int] = 3
    parts: list[str]
    agent: str
    language: str


def split(data: dict[str, Any]) -> dict[str, Any]:
    return {"parts": data["text"].split(), "agent": data["agent"]}


def add_language(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "language": "en"}


UPCASTS = {("llm.token", 1): split, ("llm.token", 2): add_language}


@pytest.fixture
def later_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVENT_CLASSES, "llm.token", NewToken)


@pytest.mark.usefixtures("later_release")
@pytest.mark.parametrize(
    ("version", "data"),
    [
        (1, b'{"text":"a b","agent":"demo"}'),
        (2, b'{"parts":["a","b"],"agent":"demo"}'),
        (3, b'{"parts":["a","b"],"agent":"demo","language":"en"}'),
        (4, b'{"parts":["a","b"],"agent":"demo","language":"en","more":1}'),
    ],
)
def test_an_old_shape_is_upcast_step_by_step(version: int, data: bytes) -> None:
    expected = NewToken(parts=["a", "b"], agent="demo", language="en")
    assert decode("llm.token", version, data, UPCASTS) == expected


@pytest.mark.usefixtures("later_release")
def test_an_upcast_that_leaves_a_wrong_shape_is_noticed() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode("llm.token", 2, b'{"agent":"demo"}', UPCASTS)


def test_every_step_to_the_present_shapes_has_its_upcast() -> None:
    needed = {(type, step) for type, cls in EVENT_CLASSES.items() for step in range(1, cls.version)}
    assert set(codec.UPCASTS) == needed


# ---- on the wire ----

LINE = (
    b'{"run_id":"0192f0c1-2d3e-7f45-8a6b-0123456789ab","seq":%d,"type":"llm.token",'
    b'"at":"2026-11-20T10:10:10.123Z","data":{"text":"Hel"}}'
)


def test_the_envelope_is_these_bytes() -> None:
    assert envelope(TailEvent(RUN, 42, "llm.token", False, AT, b'{"text":"Hel"}')) == LINE % 42


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (AT, "2026-11-20T10:10:10.123Z"),
        (AT - 123, "2026-11-20T10:10:10.000Z"),
        (AT - 118, "2026-11-20T10:10:10.005Z"),
    ],
)
def test_a_time_has_milliseconds_and_is_utc(at: int, text: str) -> None:
    assert timestamp(at) == text
    assert json.loads(envelope(TailEvent(RUN, 1, "x", False, at, b"null")))["at"] == text


# A custom event that a user appended.


@pytest.mark.parametrize("data", [None, 1, "x", {"by": "mallory", "data": 2}, [{"a": None}]])
def test_a_posted_event_keeps_its_user_beside_its_data(data: Any) -> None:
    event = Posted("custom.note", data, by='al"ice\n')
    encoded = encode(event, at=AT)
    assert encoded.version == 2
    assert decode(encoded.type, encoded.version, encoded.data) == event
    stored = TailEvent(RUN, 3, encoded.type, False, AT, encoded.data, encoded.version)
    said = json.loads(envelope(stored))
    assert (said.pop("by"), said.pop("data")) == ('al"ice\n', data)
    assert said == {"run_id": RUN, "seq": 3, "type": "custom.note", "at": timestamp(AT)}
    assert record_of(stored) == EventRecord(RUN, 3, "custom.note", timestamp(AT), data, 'al"ice\n')


def test_an_agents_own_event_and_one_of_an_older_release_have_no_by() -> None:
    data = {"by": "x", "data": 1}  # of the agent's making
    encoded = encode(Custom("custom.note", data), at=AT)
    assert (encoded.version, encoded.data) == (1, b'{"by":"x","data":1}')
    stored = TailEvent(RUN, 3, encoded.type, False, AT, encoded.data)
    assert "by" not in json.loads(envelope(stored))
    assert record_of(stored) == EventRecord(RUN, 3, "custom.note", timestamp(AT), data)


def test_the_limits_of_a_posted_event_are_those_of_its_data() -> None:
    largest = "x" * (MAX_EVENT_BYTES - 2)
    assert len(encode(Posted("custom.note", largest, by="alice")).data) > MAX_EVENT_BYTES
    with pytest.raises(EventTooLarge, match="1,048,577 bytes of data"):
        encode(Posted("custom.note", largest + "x", by="alice"))
    deep: Any = "x" * 10_000
    for _ in range(MAX_DEPTH):
        deep = [deep]
    encode(Posted("custom.note", deep, by="alice"))
    with pytest.raises(EventTooDeep):
        encode(Posted("custom.note", [deep], by="alice"))


def test_json_on_one_line_has_the_same_value() -> None:
    for text in ("a\x85b", "\u2028", "é\u2029\u2028", "\x0b\x0c\x1c\x1d\x1e", "ü\u20a8 \ue028", "plain"):
        json = to_json({"text": text})
        assert msgspec.json.decode(json) == {"text": text}
        assert len(json.decode().splitlines()) == 1
        assert one_line(json) == one_line(msgspec.json.encode({"text": text})) == json
    assert b"\\u2028" in to_json({"text": "\u2028", "half": "\ud83d"})


def test_an_event_is_measured_as_it_is_stored() -> None:
    text = MAX_EVENT_BYTES // 6 * "\u2028"
    assert json_size(text) == len(encode(Custom("custom.note", text)).data)
    encode(Posted("custom.note", text[1:], by="alice"))
    with pytest.raises(EventTooLarge):
        encode(Posted("custom.note", text + "\u2028", by="alice"))
