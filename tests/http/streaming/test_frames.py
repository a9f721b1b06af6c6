"""The frame of an event: a run's stream has these bytes in every read."""

import json

from hypothesis import given
from hypothesis import strategies as st

from runstore.core.codec import TailEvent, encode
from runstore.core.events import Token
from runstore.http.streaming.frames import ProtocolMessage, frame, message_frame

RUN = "0192f0c1-2d3e-7f45-8a6b-0123456789ab"
AT = 1_795_169_410_123
LINE = (
    b'{"run_id":"0192f0c1-2d3e-7f45-8a6b-0123456789ab","seq":%d,"type":"llm.token",'
    b'"at":"2026-11-20T10:10:10.123Z","data":{"text":"Hel"}}'
)


def hel(seq: int) -> TailEvent:
    return TailEvent(RUN, seq, "llm.token", False, AT, b'{"text":"Hel"}')


def test_a_frame_is_these_bytes() -> None:
    assert frame(hel(42)) == b"id: 42\nevent: llm.token\ndata: " + LINE % 42 + b"\n\n"


def test_only_the_first_frame_says_when_to_reconnect() -> None:
    assert frame(hel(1)) == b"retry: 1000\nid: 1\nevent: llm.token\ndata: " + LINE % 1 + b"\n\n"


def test_a_frame_is_made_once() -> None:
    event = hel(1)
    assert frame(event) is frame(event)


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 2**53))
def test_a_frame_of_any_text_is_a_frame(text: str, seq: int) -> None:
    said = encode(Token(text=text, agent=text))
    lines = frame(TailEvent(RUN, seq, said.type, said.ends, said.at, said.data)).split(b"\n")
    assert lines[-5:-3] == [b"id: %d" % seq, b"event: llm.token"]
    assert lines[-2:] == [b"", b""]
    assert json.loads(lines[-3].removeprefix(b"data: "))["data"] == json.loads(said.data)


def test_a_message_of_another_protocol_is_one_line_for_every_reader() -> None:
    lines = message_frame(ProtocolMessage(7, {"text": "a\x85b\u2028c\u2029d"})).decode().splitlines()
    assert lines[::2] == ["id: 7", ""]
    assert json.loads(lines[1].removeprefix("data: ")) == {"text": "a\x85b\u2028c\u2029d"}
