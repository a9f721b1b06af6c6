"""The output for a run's text whose parts no longer count."""

from typing import Any

import pytest

from runstore.cli.output import RULE, TextPrinter, duration
from runstore.core.records import EventRecord


def shown(capsys: pytest.CaptureFixture[str], *events: tuple[str, dict[str, Any]]) -> str:
    printer = TextPrinter()
    for seq, (type, data) in enumerate(events, 1):
        printer.show(EventRecord("run", seq, type, "", {"agent": "demo", **data}))
    printer.end_line()
    return capsys.readouterr().out


@pytest.mark.parametrize("reason", ["retried", "failed", "rejected", "redacted"])
def test_the_text_after_the_last_line_counts(capsys: pytest.CaptureFixture[str], reason: str) -> None:
    out = shown(
        capsys,
        ("llm.token", {"text": "Paris? "}),
        ("llm.token", {"text": "The capital of Fra"}),
        ("llm.discarded", {"reason": reason, "length": 18, "from_seq": 2}),
        ("llm.token", {"text": "The capital of France is Paris."}),
    )
    before, line, after = out.partition(f"{RULE} {reason}: dropped text that no longer counts {RULE}\n")
    assert before == "Paris? The capital of Fra\n"
    assert line
    assert after == "Paris? The capital of France is Paris.\n"


def test_a_new_attempt_is_marked_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(
        capsys,
        ("llm.token", {"text": "one "}),
        ("llm.token", {"text": "tw"}),
        ("lifecycle.started", {"attempt": 2, "discard_after_seq": 1}),
        ("llm.token", {"text": "two"}),
    )
    assert out == f"one tw\n{RULE} attempt 2: dropped the text so far and started over {RULE}\none two\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min"), (200, "3 min 20 s"), (3_600, "1 h"),
        (7_320, "2 h 2 min"), (187_200, "2 d 4 h"), (-1, "0.0 s"),
    ],
)  # fmt: skip
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
