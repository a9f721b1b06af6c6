"""Two runs beside each other."""

import time

from runstore.core.folds.comparison import MAX_COMPARED, RunComparison
from runstore.core.folds.step import Step


def step(seq: int, name: str, text: str = "") -> Step:
    kind = "model" if text else "tool"
    return Step(key=f"{seq}", kind=kind, seq=seq, last_seq=seq, name=name, started_at="", text=text)  # type: ignore[arg-type]


def test_the_words_that_differ_are_marked() -> None:
    pair = RunComparison().pair("input", "Input", "find the planets", "count the moons")
    assert pair.parts == [
        ("left", "find "), ("right", "count "), ("same", "the "), ("left", "planets"), ("right", "moons"),
    ]  # fmt: skip


def test_equal_texts_have_no_difference_however_long_they_are() -> None:
    text = "word " * MAX_COMPARED
    assert {kind for kind, _ in RunComparison().pair("input", "", text, text).parts} == {"same"}


def test_steps_of_one_run_alone_stand_alone() -> None:
    pairs = RunComparison().steps([step(1, "a"), step(2, "b")], [step(1, "a"), step(2, "c"), step(3, "b")])
    assert [(pair.name, pair.left, pair.right) for pair in pairs] == [
        ("a", True, True), ("c", False, True), ("b", True, True),
    ]  # fmt: skip


def test_hostile_texts_take_bounded_time() -> None:
    a, b = "a " * MAX_COMPARED, "a b " * MAX_COMPARED
    left, right = ([step(n, "m", text) for n in range(100)] for text in (a, b))
    began = time.process_time()
    pairs = RunComparison().steps(left, right)
    assert time.process_time() - began < 10
    assert len(pairs) == 100
    assert pairs[-1].parts[0][0] == "left", "too much was compared before: the texts differ as a whole"
