"""The place of a reader in several runs, as text."""

import pytest

from runstore.core.errors import InvalidCursor
from runstore.core.ids import new_run_id
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS, NamedRunCursors, OwnRunCursors


def test_the_places_of_named_runs_are_read_as_they_were_written() -> None:
    runs = [new_run_id() for _ in range(MAX_FOLLOWED_RUNS)]
    cursors = NamedRunCursors(dict.fromkeys(runs, 0))
    cursors.move(runs[3], 10**17)
    cursors.lose(runs[4])
    read = NamedRunCursors(dict.fromkeys(runs, 0))
    read.resume(cursors.text)
    assert read.open() == {run: 10**17 if run == runs[3] else 0 for run in runs if run != runs[4]}
    assert read.text == cursors.text


def test_the_places_of_ones_own_runs_are_read_as_they_were_written() -> None:
    runs = [new_run_id() for _ in range(MAX_FOLLOWED_RUNS)]
    cursors = OwnRunCursors(0, 0)
    for position, run_id in enumerate(runs, 10):
        assert cursors.add(run_id, position)
    assert not cursors.add(runs[0], 10)
    assert cursors.free == 0
    cursors.move(runs[1], 7)
    cursors.end(runs[0])
    read = OwnRunCursors.parse(cursors.text)
    assert read.open() == {run_id: 7 if run_id == runs[1] else 0 for run_id in runs[1:]}
    assert (read.position, read.seconds) == (cursors.position, cursors.seconds) == (109, cursors.seconds)
    assert len(cursors.text) < 4_096  # as a header


def test_the_id_of_a_frame_costs_no_conversion_of_run_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    cursors = OwnRunCursors(0, 0)
    run_id = new_run_id()
    cursors.add(run_id, 1)
    for each in (cursors, OwnRunCursors.parse(cursors.text)):
        with monkeypatch.context() as patched:
            patched.delattr("runstore.core.stream_cursors.UUID")
            each.move(run_id, 3)
            assert each.text.endswith(":3")


@pytest.mark.parametrize(
    "text",
    ["", "1", "own", "own.1", "own.x.1", "own.1.1.", "own.1.1.short:1", "own.1.1" + ".A" * 9, "own.1.1\n"],
)
def test_an_invalid_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        OwnRunCursors.parse(text)
    with pytest.raises(InvalidCursor):
        NamedRunCursors({new_run_id(): 0}).resume(text)


def test_the_places_of_other_runs_are_refused() -> None:
    first, second = new_run_id(), new_run_id()
    text = NamedRunCursors({first: 3, second: 4}).text
    for other in ([second, first], [first], [first, new_run_id()]):
        with pytest.raises(InvalidCursor, match="other runs"):
            NamedRunCursors(dict.fromkeys(other, 0)).resume(text)
