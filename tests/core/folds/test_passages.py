"""A run as passages that people read."""

from typing import Any

from msgspec import UNSET

from runstore.core.folds.passages import Passage, Passages
from tests.core.folds.test_step_fold import TOOL, message, record, started, token


def read(*events: Any) -> list[tuple[str, str]]:
    return [(passage.heading, passage.text) for passage in passages(*events)]


def passages(*events: Any) -> list[Passage]:
    fold = Passages()
    return [*(passage for event in events for passage in fold.add(event)), *fold.end()]


def test_a_message_is_there_once_though_it_was_streamed() -> None:
    said = [token(3, "Hel"), token(4, "lo"), message(5, {"text": "Hello"})]
    assert read(started(2), *said) == [("demo", "Hello")]


def test_text_that_no_message_repeats_comes_with_the_end_of_its_agent_or_of_the_events() -> None:
    assert read(token(3, "Hel"), token(4, "lo"), record(5, "agent.finished")) == [("demo", "Hello")]
    assert read(token(3, "Hel")) == [("demo", "Hel")]


def test_discarded_text_is_marked_and_withheld_text_is_left_out() -> None:
    def discarded(reason: str) -> list[tuple[str, str]]:
        return read(token(3, "Hel"), record(4, "llm.discarded", reason=reason, from_seq=3), token(5, "Hi"))

    assert discarded("rejected") == [("demo (discarded)", "Hel"), ("demo", "Hi")]
    assert discarded("redacted") == discarded("retried") == [("demo", "Hi")]


def test_a_new_attempt_shows_what_the_one_before_had_said() -> None:
    found = read(token(3, "Hel"), started(4, 2, discard_after_seq=2), message(6, {"text": "Hello"}))
    assert [heading.partition(",")[0] for heading, _ in found] == ["demo (discarded)", "Attempt 2", "demo"]


def test_tools_questions_and_answers_have_their_values() -> None:
    found = passages(
        record(3, "tool.started", input={"a": 1}, **TOOL), record(4, "tool.failed", output="broken", **TOOL),
        record(5, "input.requested", request_id="r", prompt="May I?", tool="pay", input={"to": "bob"}),
        record(6, "input.given", None, request_id="r", answer={"approve": True}, by="ben"),
        record(7, "cancel.requested", None, by="ann", reason="user"),
    )  # fmt: skip
    assert [(each.heading.partition(",")[0], each.text, each.value) for each in found] == [
        ("Tool look_up of demo", "", {"a": 1}), ("Error of look_up", "broken", UNSET),
        ("Question of demo", "May I?", {"tool": "pay", "input": {"to": "bob"}}),
        ("Answer of ben", "", {"approve": True}), ("Stop asked for by ann", "user", UNSET),
    ]  # fmt: skip


def test_only_a_run_that_said_nothing_shows_its_result() -> None:
    done = record(9, "lifecycle.completed", None, result={"text": "x"})
    assert [heading for heading, _ in read(message(5, {"text": "x"}), done)] == ["demo"]
    assert [heading.partition(",")[0] for heading, _ in read(done)] == ["Result"]


def test_images_of_a_known_format_are_kept() -> None:
    blocks = [{"image": {"format": format, "source": {"bytes": "aGk="}}} for format in ("png", "svg")]
    [found] = passages(record(1, "lifecycle.queued", None, user_id="ann", input=blocks))
    assert [image.format for image in found.images] == ["png"]
    assert found.value == blocks, "the other one is shown as it is"
