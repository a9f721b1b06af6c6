"""The server accepts only an agent's events and log lines from an agent's process."""

from typing import Any

import msgspec
import pytest

from runstore.core.codec import MAX_EVENT_BYTES, encode
from runstore.core.errors import AgentError
from runstore.core.events import Cancelled, Completed, Failed, Token
from runstore.runtime.process.messages import (
    LENGTH_BYTES,
    MAX_BATCH_BYTES,
    Ended,
    Logged,
    Offered,
    ToServer,
    WriteAhead,
    event_of,
    for_server,
    result_of,
    to_server,
)

TOKEN = encode(Token(agent="a", text="hi"))
MESSAGES: list[ToServer] = [
    Offered(1, TOKEN.type, TOKEN.data),
    WriteAhead(2, "custom.note", b"[1]"),
    Logged(30, "a line"),
    Ended(1, "lifecycle.completed", b'{"result":{}}'),
]


def with_length(body: bytes) -> bytearray:
    return bytearray(len(body).to_bytes(LENGTH_BYTES, "big") + body)


def test_messages_come_as_they_were_sent_however_they_are_cut() -> None:
    batches = [MESSAGES[:3], MESSAGES[3:]]
    sent = b"".join(map(for_server, batches))
    for size in (1, 3, 7, len(sent)):
        buffer, received = bytearray(), list[list[ToServer]]()
        for at in range(0, len(sent), size):
            buffer += sent[at : at + size]
            received += to_server(buffer)
        assert received == batches
        assert buffer == b""


def test_a_truncated_message_waits_for_its_rest() -> None:
    buffer = bytearray(for_server(MESSAGES[:1])[:-1])
    assert list(to_server(buffer)) == []
    assert len(buffer) == len(for_server(MESSAGES[:1])) - 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"garbage",
        msgspec.msgpack.encode(["said", 1, "llm.token", b"{}"]),
        msgspec.msgpack.encode([["begin", 1, 2]]),
        msgspec.msgpack.encode([["said", 1, "llm.token"]]),
        msgspec.msgpack.encode([["said", 1, 1, b"{}"]]),
        msgspec.msgpack.encode([["said", "1", "llm.token", b"{}"]]),
        msgspec.msgpack.encode([{"type": "said"}]),
        b"\x91\x93\xa6logged\x1e\xa1\xff",  # a line that is no UTF-8
        b"\x91" * 100_000,
    ],
)  # fmt: skip
def test_garbage_is_an_error_of_the_agent(body: bytes) -> None:
    with pytest.raises(AgentError, match="process sent"):
        list(to_server(with_length(body)))


def test_a_message_that_says_it_is_oversized_is_refused_before_it_has_come() -> None:
    buffer = bytearray((MAX_BATCH_BYTES + 1).to_bytes(LENGTH_BYTES, "big"))
    with pytest.raises(AgentError, match="16,777,217 bytes"):
        list(to_server(buffer))


@pytest.mark.parametrize(
    "type",
    ["lifecycle.completed", "lifecycle.queued", "lifecycle.x", "cancel.requested", "run.deleted"],
)
def test_events_that_only_the_server_writes_are_refused(type: str) -> None:
    with pytest.raises(AgentError, match="cannot write"):
        event_of(Offered(1, type, b"{}"))


@pytest.mark.parametrize("type", ["", "token", "custom.", "custom.a\nb", "llm.future", "x" * 1_000_000])
def test_a_type_that_there_is_not_is_refused(type: str) -> None:
    with pytest.raises(AgentError) as caught:
        event_of(Offered(1, type, b"{}"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"{}", b'{"text":1,"agent":"a"}', b'{"text":"\xff","agent":"a"}', b"[" * 100_000,
        b'{"text":"%b","agent":"a"}' % (b"x" * MAX_EVENT_BYTES),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_its_type_is_refused(data: bytes) -> None:
    with pytest.raises(AgentError, match="a malformed event"):
        event_of(Offered(1, "llm.token", data))


@pytest.mark.parametrize(
    "data",
    [
        b'{"text":"hi",\n\n"agent":"a"}',
        b'\r\n{ "agent" : "a" , "text" : "hi" }',
        b'{"text":"hi","agent":"a","evil":"\xff\xfe"}',
    ],
)
def test_the_server_itself_encodes_stored_events(data: bytes) -> None:
    """A line break in the data would end the line of a server-sent event, and invalid UTF-8 would end a
    stream.
    """
    assert event_of(Offered(1, "llm.token", data)).data == TOKEN.data


def test_a_custom_event_is_encoded_again_too() -> None:
    event = event_of(WriteAhead(2, "custom.note", b'{"a":\n[1, 2.5, null, "\\n"]}'))
    assert (event.type, event.data) == ("custom.note", b'{"a":[1,2.5,null,"\\n"]}')


def ended(ending: Any) -> Ended:
    event = encode(ending)
    return Ended(1, event.type, event.data)


def test_an_ending_is_the_agents_result_or_its_error() -> None:
    done = result_of(ended(Completed(result={"text": "hi"}, usage={"input_tokens": 3})))
    assert (done.result, done.usage) == ({"text": "hi"}, {"input_tokens": 3})
    with pytest.raises(AgentError, match="no luck") as caught:
        result_of(ended(Failed(code="model_error", message="no luck")))
    assert caught.value.code == "model_error"


@pytest.mark.parametrize(
    "message",
    [ended(Cancelled(reason="user")), Ended(1, "nothing", b"{}"), Ended(1, "lifecycle.completed", b"{}")],
)
def test_a_malformed_ending_is_an_error_of_the_agent(message: Ended) -> None:
    with pytest.raises(AgentError, match="end"):
        result_of(message)
