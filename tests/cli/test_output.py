"""Tables, and the output for a run's text whose parts no longer count."""

import re
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest

from runstore.cli.audit import RUN_FIELDS, USAGE_FIELDS
from runstore.cli.output import RULE, TextPrinter, duration, print_table
from runstore.cli.tables import Form
from runstore.core.records import EventRecord

RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


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


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Terminal:
    """A terminal that takes colours."""
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    return terminal


def test_a_narrow_terminal_shows_every_character_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch, 80)
    cells = [RUN_ID, "success", "alice-with-a-longer-name@example.com", "billing", "session-1234"]
    print_table(("RUN", "STATUS", "USER", "AGENT", "SESSION"), [cells])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    starts = [lines[0].index(name) for name in ("RUN", "STATUS", "USER", "AGENT", "SESSION")]
    ends = [*starts[1:], None]
    columns = [
        "".join(line[start:end].strip() for line in lines[1:])
        for start, end in zip(starts, ends, strict=True)
    ]
    assert columns == cells


def test_a_report_on_runs_looks_as_the_list_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch, 200)
    created = (datetime.now(UTC) - timedelta(hours=2, minutes=3)).isoformat()
    row = {
        "run_id": RUN_ID, "status": "running", "created_at": created, "completed_at": None,
        "duration_ms": 200_000, "cancel_requested": True,
    }  # fmt: skip
    Form().write(RUN_FIELDS, [row])
    shown = terminal.getvalue()
    assert "\x1b[36mrunning, stopping" in shown
    assert "2 h 3 min ago" in shown
    assert "3 min 20 s" in shown


RUN = {
    "run_id": RUN_ID, "status": "stopped", "cancel_requested": True, "completed_at": "2026-11-20T10:00:00Z",
    "cost": 0.25, "currency": "USD", "unpriced": False,
}  # fmt: skip


def test_the_cost_of_an_answer_that_broke_off_is_marked_as_a_lower_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Form().write(RUN_FIELDS, [{**RUN, "incomplete": True}])
    printed = capsys.readouterr()
    assert "≥ 0.2500" in printed.out
    assert printed.err.startswith("≥ marks the cost of runs whose answer broke off")
    Form().write(USAGE_FIELDS, [{"day": "2026-11-20", "runs": 2, "incomplete": 1, "cost": 0.25}])
    assert "≥ 0.2500" in capsys.readouterr().out
    Form().write(RUN_FIELDS, [{**RUN, "incomplete": False, "unpriced": True}])
    printed = capsys.readouterr()
    assert ("≥" in printed.out, printed.err) == (False, "")
    assert printed.out.split()[-2:] == ["USD", "yes"]
    assert "UNPRICED" in printed.out
