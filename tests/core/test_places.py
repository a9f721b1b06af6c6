"""The place of a reader in several runs, as text."""

import pytest

from runstore.core.errors import InvalidCursor
from runstore.core.ids import new_run_id
from runstore.core.places import MAX_PLACES, NamedPlaces, OwnPlaces


def test_the_places_of_named_runs_are_read_as_they_were_written() -> None:
    runs = [new_run_id() for _ in range(MAX_PLACES)]
    places = NamedPlaces(dict.fromkeys(runs, 0))
    places.move(runs[3], 10**17)
    places.lose(runs[4])
    read = NamedPlaces(dict.fromkeys(runs, 0))
    read.resume(places.text)
    assert read.open() == {run: 10**17 if run == runs[3] else 0 for run in runs if run != runs[4]}
    assert read.text == places.text


def test_the_places_of_ones_own_runs_are_read_as_they_were_written() -> None:
    runs = [new_run_id() for _ in range(MAX_PLACES)]
    places = OwnPlaces(0, 0)
    for position, run_id in enumerate(runs, 10):
        assert places.add(run_id, position)
    assert not places.add(runs[0], 10)
    assert places.free == 0
    places.move(runs[1], 7)
    places.end(runs[0])
    read = OwnPlaces.parse(places.text)
    assert read.open() == {run_id: 7 if run_id == runs[1] else 0 for run_id in runs[1:]}
    assert (read.position, read.seconds) == (places.position, places.seconds) == (109, places.seconds)
    assert len(places.text) < 4_096  # as a header


def test_the_id_of_a_frame_costs_no_conversion_of_run_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    places = OwnPlaces(0, 0)
    run_id = new_run_id()
    places.add(run_id, 1)
    for each in (places, OwnPlaces.parse(places.text)):
        with monkeypatch.context() as patched:
            patched.delattr("runstore.core.places.UUID")
            each.move(run_id, 3)
            assert each.text.endswith(":3")


@pytest.mark.parametrize(
    "text",
    ["", "1", "own", "own.1", "own.x.1", "own.1.1.", "own.1.1.short:1", "own.1.1" + ".A" * 9, "own.1.1\n"],
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursor):
        OwnPlaces.parse(text)
    with pytest.raises(InvalidCursor):
        NamedPlaces({new_run_id(): 0}).resume(text)


def test_the_places_of_other_runs_are_refused() -> None:
    first, second = new_run_id(), new_run_id()
    text = NamedPlaces({first: 3, second: 4}).text
    for other in ([second, first], [first], [first, new_run_id()]):
        with pytest.raises(InvalidCursor, match="other runs"):
            NamedPlaces(dict.fromkeys(other, 0)).resume(text)
