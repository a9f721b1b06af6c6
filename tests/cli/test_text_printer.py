"""The output of `runstore runs tail` for a run's text."""

import pytest

from runstore.cli.output import TextPrinter
from runstore.core.records import EventRecord


def token(seq: int, text: str, agent: str = "demo") -> EventRecord:
    return EventRecord("run", seq, "llm.token", "", {"agent": agent, "text": text})


def test_messages_are_set_apart_by_a_blank_line_and_agents_by_their_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = TextPrinter()
    for event in (
        token(1, "Let me "), token(2, "look."),
        EventRecord("run", 3, "tool.started", "", {"agent": "demo", "tool_use_id": "1", "name": "look_up"}),
        token(4, "found", "demo/look_up"), token(5, "It is on "), token(6, "page 12."),
        EventRecord("run", 7, "llm.message", "", {"agent": "demo", "message": {"role": "assistant"}}),
        token(8, "Done."), EventRecord("run", 9, "lifecycle.completed", "", {"result": {}}),
    ):  # fmt: skip
        printer.show(event)
    shown = "Let me look.\n[demo/look_up]\nfound\n[demo]\nIt is on page 12.\n\nDone.\n"
    assert capsys.readouterr().out == shown
