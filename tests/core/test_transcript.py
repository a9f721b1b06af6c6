"""The text of a run, also of one whose worker died in the middle of a word."""

from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runstore.core.records import EventRecord
from runstore.core.transcript import Transcript, text


def run(*said: Any) -> list[EventRecord]:
    """The events of a run: a text is a token, a number a new attempt that discards after that seq."""
    seqs = count(1)
    return [
        EventRecord("run", next(seqs), "llm.token", "", {"text": item, "agent": "demo"})
        if isinstance(item, str)
        else EventRecord("run", next(seqs), "lifecycle.started", "", {"attempt": 2, **_discard(item)})
        for item in said
    ]


def _discard(seq: int | None) -> dict[str, int]:
    return {} if seq is None else {"discard_after_seq": seq}


def test_the_text_is_that_of_the_tokens() -> None:
    assert text(run(None, "Hel", "lo")) == "Hello"


def test_what_a_new_attempt_says_again_is_there_once() -> None:
    assert text(run(None, "Hello ", "wor", 2, "world")) == "Hello world"


def test_a_third_attempt_drops_what_the_second_said_too() -> None:
    assert text(run(None, "a", "b", 2, "b", "c", 2, "b", "c", "d")) == "abcd"


def test_a_reader_is_told_what_to_drop() -> None:
    transcript = Transcript()
    assert [transcript.add(event) for event in run(None, "Hello ", "wor", 2, "world")] == [
        "",
        "",
        "",
        "wor",
        "",
    ]


def test_an_attempt_without_a_discard_drops_nothing() -> None:
    assert text(run(None, "a", None, "b")) == "ab"


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(max_size=3), st.integers(0, 20), st.none()), max_size=20))
def test_the_text_is_what_the_rule_of_the_documents_leaves(said: list[Any]) -> None:
    events = run(*said)
    kept: list[EventRecord] = []
    for event in events:
        after = event.data.get("discard_after_seq")
        kept = kept if after is None else [e for e in kept if e.seq <= after]
        kept.append(event)
    assert text(events) == "".join(e.data["text"] for e in kept if e.type == "llm.token")
