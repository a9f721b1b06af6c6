"""Comparing two runs line by line."""

from collections.abc import Sequence
from random import Random

import pytest

from runstore.core.errors import TooLarge
from runstore.core.folds import comparison as sequences
from runstore.runtime.replay import comparison
from runstore.runtime.replay.comparison import run_diff
from runstore.runtime.replay.dialogues import Answer, Dialogue, RecordedRun


def run_of(texts: Sequence[str]) -> RecordedRun:
    answers = [Answer(seq=n, content=[{"text": text}]) for n, text in enumerate(texts, 1)]
    dialogues = [Dialogue(agent="a", answers=answers)]
    return RecordedRun(run_id="r", agent="a", input="hi", status="success", dialogues=dialogues)


@pytest.mark.parametrize("exact", [0, 500])
@pytest.mark.parametrize("seed", range(20))
def test_the_lines_lead_from_one_run_to_the_other(
    seed: int, exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "MAX_EXACT", exact)
    random = Random(seed)
    one, two = ([random.choice("abc") for _ in range(random.randrange(12))] for _ in range(2))
    lines = [line for line in run_diff(run_of(one), run_of(two)) if line.kind == "assistant"]
    assert [line.content for line in lines if line.mark in "=-"] == one
    assert [line.content for line in lines if line.mark in "=+"] == two


def test_one_changed_line_among_many_is_one_difference() -> None:
    texts = [str(number % 7) for number in range(2_000)]
    changed = [*texts[:1_000], "other", *texts[1_001:]]
    marked = [line for line in run_diff(run_of(texts), run_of(changed)) if line.mark != "="]
    assert [(line.mark, line.content) for line in marked] == [("-", texts[1_000]), ("+", "other")]


def test_long_runs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_LINES", 5)
    assert run_diff(run_of("abc"), run_of("abc"))
    with pytest.raises(TooLarge, match="has 6 lines"):
        run_diff(run_of("abc"), run_of("abcd"))
