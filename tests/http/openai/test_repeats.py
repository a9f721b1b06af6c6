"""The text of a chat's client when a model call is made again, for clients that drop text and for others."""

from typing import Any
from unittest import mock

import msgspec
import pytest

import runstore.http.openai.repeats as chat_repeats
from runstore.client.sse import FrameParser
from runstore.core.records import EventRecord
from runstore.core.run import Run
from runstore.http.openai.answer import ChatAnswer
from runstore.http.openai.repeats import MAX_SENT, Piece, SentText
from runstore.http.openai.stream import DONE, ChatChunks
from runstore.http.streaming.frames import ProtocolMessage, message_frame

FRANCE = "The capital of France is Paris."


def events(*said: Any) -> list[EventRecord]:
    """A run: texts are tokens, a number withdraws this number of tokens, None ends a message."""
    found = [EventRecord("run", 1, "lifecycle.started", "", {"attempt": 1})]
    for item in said:
        seq = len(found) + 1
        if isinstance(item, str):
            kind = "llm.reasoning" if item.startswith("~") else "llm.token"
            found.append(EventRecord("run", seq, kind, "", {"agent": "a", "text": item.lstrip("~")}))
        elif item is None:
            message = {"role": "assistant", "content": []}
            found.append(EventRecord("run", seq, "llm.message", "", {"agent": "a", "message": message}))
        else:
            taken = {"agent": "a", "from_seq": seq - item, "reason": "retried", "length": 0}
            found.append(EventRecord("run", seq, "llm.discarded", "", taken))
    seq = len(found) + 1
    return [
        *found,
        EventRecord("run", seq, "lifecycle.completed", "", {"result": {"stop_reason": "end_turn"}}),
    ]


def sent(run: list[EventRecord], after: int = 0) -> list[tuple[int, Any]]:
    """The chunks after a cursor: seq and content of each."""
    chunks = ChatChunks(Run("01890a5d-ac96-774b-bcce-b302099a8057", agent_name="a"))
    for event in run[:after]:
        chunks.pass_over(event)
    *most, done = [message for event in run[after:] for message in chunks.messages(event)]
    assert done == ProtocolMessage(None, msgspec.Raw(DONE))
    return [(message.seq or 0, msgspec.to_builtins(message.content)) for message in most]


def read(found: list[tuple[int, Any]], *, drops: bool) -> tuple[str, str]:
    """The content and the reasoning that a client has in the end."""
    has: list[tuple[int, Any]] = []
    for seq, chunk in found:
        if drops and "discard_after_seq" in chunk:
            has = [each for each in has if each[0] <= chunk["discard_after_seq"]]
        has.append((seq, chunk["choices"][0]["delta"]))
    content, reasoning = (
        "".join(delta.get(kind, "") for _, delta in has) for kind in ("content", "reasoning_content")
    )
    return content, reasoning


def whole(run: list[EventRecord]) -> tuple[str, str]:
    answer = ChatAnswer(kept=True)
    for event in run[:-1]:
        answer.add(event)
    answer.end(run[-1].seq, run[-1].data["result"])
    return answer.whole


SAME = [
    (["The capital ", "of Fra", 2, FRANCE], FRANCE),
    (["The capital ", "of Fra", 2, "The", " capital of", " France", " is Paris."], FRANCE),
    (["The capital ", 1, "The capital ", "of Fra", 2, FRANCE], FRANCE),
    (["The capital ", "of Fra", 2, "The ", 1, FRANCE], FRANCE),
    ([FRANCE, 1, FRANCE], FRANCE),
    (["Let me look.", None, "It is ", 1, "It is on page 12."], "Let me look.\n\nIt is on page 12."),
    ([0, FRANCE], FRANCE),
    (["~So, ", "The c", 2, "~So", "~, ", "The capital"], "The capital"),
]
OTHER = [
    (["The capital ", "of Fra", 2, "Paris."], "Paris."),
    (["The capital ", "of Fra", 2, "The capital is Paris."], "The capital is Paris."),
    (["The capital of France", 1, "The capital", None], "The capital"),
    (["The capital of France", 1], ""),
    (["The capital ", 1, "The capital of Fra", 1, "The ", "answer"], "The answer"),
    (["Let me look.", None, "It is ", 1, "Page 12."], "Let me look.\n\nPage 12."),
    (["Let me look.", None, "It is ", 1, None, "Page 12."], "Let me look.\n\nPage 12."),
    (["x" * MAX_SENT, "y", 2, "x" * MAX_SENT, "z"], "x" * MAX_SENT + "z"),
]
OTHER_REASONING = [  # and the same content so far
    (["~Two", 1, "~A pair", "~ is two.", "Two."], "Two.", "Two\n\nA pair is two."),
    (["~So, ", "The c", 2, "~Well, ", "The capital"], "The capital", "So, \n\nWell, "),
    (["~So, ", "The c", 2, "The c", "~So, "], "The c", "So, "),
    (["~So, ", 1, "Two."], "Two.", "So, \n\n"),
    (["~I look.", "Wait.", None, "~I ", 1, "~Eye", "Two."], "Wait.\n\nTwo.", "I look.\n\nI \n\nEye"),
]
ALL = SAME + OTHER + [(said, content) for said, content, _ in OTHER_REASONING]


@pytest.mark.parametrize(("said", "content"), ALL, ids=range(len(ALL)))
def test_a_client_that_drops_has_the_whole_answer(said: list[Any], content: str) -> None:
    run = events(*said)
    assert whole(run)[0] == content
    assert read(sent(run), drops=True) == whole(run)


def plain(run: list[EventRecord]) -> list[Any]:
    """The chunks for a client of OpenAI that cannot drop text."""
    chunks = ChatChunks(Run("01890a5d-ac96-774b-bcce-b302099a8057", agent_name="a"), plain=True)
    frames = FrameParser().feed(
        b"".join(message_frame(each) for event in run for each in chunks.messages(event))
    )
    return [frame.data if frame.data == b"[DONE]" else msgspec.json.decode(frame.data) for frame in frames]


@pytest.mark.parametrize(("said", "content"), SAME, ids=range(len(SAME)))
def test_a_plain_clients_answer_goes_on_where_it_broke_off(said: list[Any], content: str) -> None:
    *chunks, done = plain(events(*said))
    assert done == b"[DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == content


@pytest.mark.parametrize(("said", "content"), OTHER, ids=range(len(OTHER)))
def test_a_plain_clients_stream_ends_with_an_error_if_its_text_is_not_the_answer(
    said: list[Any], content: str
) -> None:
    *chunks, last = plain(events(*said))
    assert last["error"]["code"] == "answer_replaced"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)


@pytest.mark.parametrize(("said", "content", "reasoning"), OTHER_REASONING)
def test_a_plain_clients_answer_goes_on_though_the_reasoning_is_another(
    said: list[Any], content: str, reasoning: str
) -> None:
    *chunks, done = plain(events(*said))
    assert done == b"[DONE]"
    assert read(list(enumerate(chunks)), drops=False) == (content, reasoning)


@pytest.mark.parametrize(("again", "whole"), [("one two", True), ("on two", False)])
def test_a_new_attempt_that_says_the_same_goes_on_for_a_plain_client(again: str, whole: bool) -> None:
    run = events("one ")
    started = EventRecord("run", 3, "lifecycle.started", "", {"attempt": 2, "discard_after_seq": 1})
    said = EventRecord("run", 4, "llm.token", "", {"agent": "a", "text": again})
    *chunks, last = plain([*run[:-1], started, said, msgspec.structs.replace(run[-1], seq=5)])
    assert (last == b"[DONE]") is whole
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert content == ("one two" if whole else "one ")


@pytest.mark.parametrize(("said", "content"), SAME, ids=range(len(SAME)))
def test_a_client_that_cannot_drop_has_it_too_as_long_as_the_same_is_said(
    said: list[Any], content: str
) -> None:
    run = events(*said)
    assert read(sent(run), drops=False) == whole(run)
    assert not [chunk for _, chunk in sent(run) if "discard_after_seq" in chunk]


@pytest.mark.parametrize(("said", "content"), ALL, ids=range(len(ALL)))
def test_a_stream_that_is_cut_in_the_middle_goes_on_with_the_same_chunks(
    said: list[Any], content: str
) -> None:
    run = events(*said)
    for after in range(len(run)):
        assert sent(run, after) == [each for each in sent(run) if each[0] > after]


def test_a_long_answer_that_is_said_again_costs_each_token_once() -> None:
    tokens = ["a word "] * 2048
    repeats = SentText()
    for seq, token in enumerate(tokens):
        repeats.send(seq, ("a", None), Piece("content", token))
    assert repeats.take_back(0)
    joined = mock.Mock(wraps=chat_repeats._joined)
    with mock.patch.object(chat_repeats, "_joined", joined):
        again = [repeats.send(seq, ("a", None), Piece("content", token)) for seq, token in enumerate(tokens)]
    assert {*again} == {""}
    assert joined.call_count == 1
    assert repeats.end()
