"""The text of a run, also of one whose worker died in the middle of a word."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runstore.core.folds.transcript import SEPARATOR, Transcript, text
from runstore.core.records import EventRecord


def run(*said: Any) -> list[EventRecord]:
    """The events of a run: a text is a token, a number a new attempt that discards after that seq.

    A pair is what another agent says, or an object: the data of an `llm.discarded`.
    """
    return [EventRecord("run", seq, *_event(item)) for seq, item in enumerate(said, 1)]


def _event(item: Any) -> tuple[str, str, dict[str, Any]]:
    match item:
        case str():
            return "llm.token", "", {"text": item, "agent": "demo"}
        case (agent, call_id, text):
            return "llm.token", "", {"text": text, "agent": agent, "call_id": call_id}
        case {"from_seq": _}:
            return "llm.discarded", "", {"agent": "demo", "reason": "retried", "length": 1, **item}
    return "lifecycle.started", "", {"attempt": 2, **_discard(item)}


def _discard(seq: int | None) -> dict[str, int]:
    return {} if seq is None else {"discard_after_seq": seq}


def event(seq: int, type: str, /, agent: str = "demo", **data: Any) -> EventRecord:
    return EventRecord("run", seq, type, "", {"agent": agent, **data})


def token(seq: int, text: str, **data: Any) -> EventRecord:
    return event(seq, "llm.token", text=text, **data)


def message(seq: int, *blocks: Any, role: str = "assistant", **data: Any) -> EventRecord:
    return event(seq, "llm.message", message={"role": role, "content": list(blocks)}, **data)


def test_the_text_is_that_of_the_tokens() -> None:
    assert text(run(None, "Hel", "lo")) == "Hello"


def test_text_that_a_new_attempt_repeats_is_there_once() -> None:
    assert text(run(None, "Hello ", "wor", 2, "world")) == "Hello world"


def test_a_third_attempt_drops_what_the_second_said_too() -> None:
    assert text(run(None, "a", "b", 2, "b", "c", 2, "b", "c", "d")) == "abcd"


def test_a_reader_learns_which_text_to_drop() -> None:
    transcript = Transcript()
    assert [transcript.add(event) for event in run(None, "Hello ", "wor", 2, "world")] == [
        "",
        "",
        "",
        "wor",
        "",
    ]


def test_the_text_of_a_failed_call_is_dropped() -> None:
    events = run("Paris? ", "The ca", "pital of Fra", {"from_seq": 2}, "The capital ", "of France")
    assert text(events) == "Paris? The capital of France"
    transcript = Transcript()
    assert [transcript.add(event) for event in events][3] == "The capital of Fra"


def test_text_of_another_agent_or_call_is_not_dropped_with_it() -> None:
    said = [
        ("demo/a", "t1", "A"),
        ("demo/a", "t2", "B"),
        "C",
        {"agent": "demo/a", "call_id": "t1", "from_seq": 1},
    ]
    assert text(run(*said)) == f"B{SEPARATOR}C"
    assert text(run(*said, {"from_seq": 1})) == "B"
    assert text(run(*said, {"from_seq": 1}, "D")) == f"B{SEPARATOR}D"


def test_tombstones_say_nothing() -> None:
    buried = EventRecord("run", 2, "llm.redacted", "", {"agent": "demo"})
    assert text([*run("a"), buried, *run({"from_seq": 2})]) == "a"


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


# ---- messages ----


def test_a_blank_line_separates_text_before_and_after_a_tool_call() -> None:
    use = {"toolUse": {"toolUseId": "1", "name": "look_up", "input": {}}}
    result = {"toolResult": {"toolUseId": "1", "status": "success", "content": [{"text": "p. 12"}]}}
    events = [
        token(1, "Let me "), token(2, "look."), message(3, {"text": "Let me look."}, use),
        event(4, "tool.started", tool_use_id="1", name="look_up"), message(5, result, role="user"),
        token(6, "It is "), token(7, "on page 12."), message(8, {"text": "It is on page 12."}),
    ]  # fmt: skip
    assert text(events) == "Let me look.\n\nIt is on page 12."
    transcript = Transcript()
    added = []
    for each in events:
        assert transcript.add(each) == ""
        added.append(transcript.added)
    assert [piece for piece in added if piece] == ["Let me ", "look.", "\n\nIt is ", "on page 12."]


def test_a_tool_call_ends_a_message_that_is_not_recorded_itself() -> None:
    events = [token(1, "Let me look."), event(2, "tool.started"), token(3, "Page 12.")]
    assert text(events) == "Let me look.\n\nPage 12."


def test_blocks_of_one_message_are_joined_as_they_were_streamed() -> None:
    blocks = ["Paris is ", "the capital", " of France."]
    events = [
        *(token(n, block) for n, block in enumerate(blocks, 1)),
        message(9, *({"text": b} for b in blocks)),
    ]
    assert text(events) == "Paris is the capital of France."


def test_two_agents_are_set_apart_and_so_are_two_calls_of_one() -> None:
    events = [
        token(1, "a"), token(2, "b", agent="demo/x", call_id="1"), token(3, "c", agent="demo/x", call_id="2"),
        token(4, "d"),
    ]  # fmt: skip
    assert text(events).split(SEPARATOR) == ["a", "b", "c", "d"]


def test_a_message_of_which_nothing_was_streamed_is_said_by_its_event() -> None:
    cited = {"citationsContent": {"citations": [], "content": [{"text": "Pa"}, {"text": "ris"}]}}
    assert text([message(1, cited), message(2, {"text": "next"}), token(3, "x")]) == "Paris\n\nnext\n\nx"
    assert text([message(1, {"text": "to the model"}, role="user")]) == ""


def test_a_message_in_several_events_is_said_once() -> None:
    parts = [message(3, {"text": "The cap"}, more=True), message(4, {"text": "ital"})]
    assert text([token(1, "The "), token(2, "capital"), *parts, token(5, "x")]) == "The capital\n\nx"
    assert text([*parts, message(5, {"text": "next"})]) == "The capital\n\nnext"


def test_a_message_that_a_new_attempt_repeats_in_several_events_is_said_once() -> None:
    again = EventRecord("run", 4, "lifecycle.started", "", {"attempt": 2, "discard_after_seq": 0})
    parts = [message(6, {"text": "The cap"}, more=True), message(7, {"text": "ital"})]
    first = [token(1, "The "), message(3, {"text": "The "}, more=True), again]
    assert text([*first, token(5, "The capital"), *parts]) == "The capital"
    assert text([*first, *parts]) == "The capital"


def test_a_discarded_message_leaves_no_line_behind() -> None:
    again = EventRecord("run", 9, "lifecycle.started", "", {"attempt": 2, "discard_after_seq": 0})
    assert text([token(1, "a"), message(2, {"text": "a"}), token(3, "b"), again, token(10, "a")]) == "a"
    kept = EventRecord("run", 9, "lifecycle.started", "", {"attempt": 2, "discard_after_seq": 2})
    assert text([token(1, "a"), message(2, {"text": "a"}), token(3, "b"), kept, token(10, "b")]) == "a\n\nb"
