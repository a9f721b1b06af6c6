"""Server-sent events are read as a browser reads them, however the stream was cut on its way."""

import json
import time
from itertools import pairwise
from typing import cast

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstore.client import sse
from runstore.client.sse import Frame, FrameParser, FrameTooLarge
from runstore.core.codec import TailEvent
from runstore.http.streaming.frames import frame
from tests.http.eventsource import EventSource, Message, read_lines

PIECES = [
    b"data", b"event", b"id", b"retry", b":", b" ", b"\r", b"\n", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\0",
    b"7", b"llm.token", b"\xc3\xa9", b"\xff", b"\xe2\x80\xa8", b"\x0b", b"\x85", b"data: x\n\n",
]  # fmt: skip
streams = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)


def read(*parts: bytes) -> list[Frame]:
    parser = FrameParser()
    return [frame for part in parts for frame in parser.feed(part)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


def as_a_browser(stream: bytes) -> list[Message]:
    """The events by the rules of the standard; the spaces let it read beyond the end of a short stream."""
    return list(EventSource(cast(httpx.Client, None), "/").interpret(read_lines([stream, b"   "])))


@settings(deadline=None)
@given(streams, st.lists(st.integers(0, 1_000), max_size=10))
def test_any_way_to_cut_a_stream_gives_the_same_frames(stream: bytes, places: list[int]) -> None:
    assert read(*cut(stream, places)) == read(stream)


@settings(deadline=None)
@given(streams)
def test_byte_by_byte_gives_the_same_frames(stream: bytes) -> None:
    assert read(*(stream[place : place + 1] for place in range(len(stream)))) == read(stream)


@settings(deadline=None)
@given(streams.filter(lambda stream: not stream.endswith(b"\r")))
def test_the_frames_are_those_of_a_browser(stream: bytes) -> None:
    found = [Message(frame.type, frame.data.decode(errors="replace"), frame.id) for frame in read(stream)]
    assert found == as_a_browser(stream)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**12), st.text(max_size=50)), max_size=20))
def test_our_own_frames_come_out_with_the_bytes_that_went_in(events: list[tuple[int, str]]) -> None:
    sent = [
        frame(TailEvent("run", seq, "llm.token", False, seq, json.dumps({"text": said}).encode()))
        for seq, said in events
    ]
    found = read(b":\n" + b":\n".join(sent))
    assert [frame.raw for frame in found] == sent
    assert [(frame.id, json.loads(frame.data)["data"]["text"]) for frame in found] == [
        (str(seq), said) for seq, said in events
    ]


def test_a_frame_is_there_as_soon_as_its_blank_line_is() -> None:
    parser = FrameParser()
    assert parser.feed(b"data: 1\r\r") == [Frame("message", "", b"1", b"data: 1\n\n")]
    assert parser.feed(b"\ndata: 2\r\n\r") == [Frame("message", "", b"2", b"data: 2\n\n")]
    assert parser.feed(b"\n") == []


def test_a_frame_that_was_cut_off_is_dropped() -> None:
    assert read(b"id: 1\ndata: whole\n\nid: 2\ndata: ha") == [
        Frame("message", "1", b"whole", b"id: 1\ndata: whole\n\n")
    ]


def test_the_time_to_reconnect_is_the_streams() -> None:
    parser = FrameParser()
    parser.feed(b"retry: 5s\nretry: 250\n\n")
    assert parser.retry_ms == 250


def test_a_frame_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_FRAME_BYTES", 100)
    parser = FrameParser()
    for _ in range(99):
        assert parser.feed(b"x") == []
    with pytest.raises(FrameTooLarge):
        parser.feed(b"xx")


def test_heartbeats_between_two_frames_may_go_on_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_FRAME_BYTES", 100)
    parser = FrameParser()
    for _ in range(1_000):
        assert parser.feed(b":\n") == []
    assert len(parser.feed(b"data: x\n\n")) == 1


def test_a_stream_of_single_bytes_is_read_in_linear_time() -> None:
    def seconds(size: int) -> float:
        parser, started = FrameParser(), time.process_time()
        for _ in range(size):
            parser.feed(b"x")
        return time.process_time() - started

    assert min(seconds(80_000) for _ in range(3)) < 30 * min(seconds(10_000) for _ in range(3))
