"""The checks of the fault tests find what they look for."""

import json
from collections.abc import Callable

import pytest

from tests.kit.checks import check_dense, check_log, check_notes, check_stream
from tests.kit.frames import Frame
from tests.kit.load import Seen

RUN = "run"


def frame(seq: int, type: str, data: object = None, run_id: str = RUN) -> Frame:
    line = json.dumps({"run_id": run_id, "seq": seq, "type": type, "data": data}).encode()
    return Frame(b"id: %d\ndata: %b\n\n" % (seq, line), seq, type, line)


def whole() -> list[Frame]:
    return [
        frame(1, "lifecycle.queued"),
        frame(2, "lifecycle.started", {"attempt": 1}),
        frame(3, "custom.note", 0),
        frame(4, "lifecycle.started", {"attempt": 2}),
        frame(5, "custom.note", 2),
        frame(6, "lifecycle.completed"),
    ]


def seen(acknowledged: dict[int, int] | None = None) -> Seen:
    return Seen(RUN, whole(), offered=3, acknowledged={0: 3} if acknowledged is None else acknowledged)


def changed(place: int, *by: Frame) -> list[Frame]:
    frames = whole()
    frames[place : place + 1] = by
    return frames


def test_a_whole_run_passes() -> None:
    check_stream(seen(), [whole(), whole()])
    check_log(RUN, whole())
    check_notes(seen(), whole())


WRONG_LOGS = {
    "a hole": changed(2),
    "a repeat": changed(2, whole()[2], whole()[2]),
    "another order": [whole()[1], whole()[0], *whole()[2:]],
    "another run's event": changed(2, frame(3, "custom.note", 0, run_id="other")),
    "no ending": whole()[:-1],
    "two endings": [*whole(), frame(7, "lifecycle.failed")],
    "something after the ending": [*whole(), frame(7, "llm.token")],
    "an attempt twice": changed(3, frame(4, "lifecycle.started", {"attempt": 1})),
    "an attempt left out": changed(3, frame(4, "lifecycle.started", {"attempt": 3})),
    "no beginning": changed(0, frame(1, "custom.note", 1)),
}


@pytest.mark.parametrize("frames", WRONG_LOGS.values(), ids=WRONG_LOGS)
def test_a_wrong_log_does_not_pass(frames: list[Frame]) -> None:
    with pytest.raises(AssertionError, match=RUN):
        check_log(RUN, frames)


WRONG_REPLAYS = {
    "other bytes": changed(2, frame(3, "custom.note", 9)),
    "fewer": whole()[:-1],
    "more": [*whole(), frame(7, "llm.token")],
}


@pytest.mark.parametrize("replay", WRONG_REPLAYS.values(), ids=WRONG_REPLAYS)
def test_a_server_that_replays_something_else_does_not_pass(replay: list[Frame]) -> None:
    with pytest.raises(AssertionError, match=RUN):
        check_stream(seen(), [whole(), replay])


def test_a_client_that_missed_an_event_does_not_pass() -> None:
    missed = changed(2)
    with pytest.raises(AssertionError, match=RUN):
        check_stream(Seen(RUN, missed), [missed])
    with pytest.raises(AssertionError, match=RUN):
        check_dense(RUN, missed)


@pytest.mark.parametrize(
    ("what", "acknowledged", "frames"),
    [
        ("lost", {0: 3, 1: 4}, whole),
        ("elsewhere", {0: 5}, whole),
        ("stored twice", {0: 3}, lambda: changed(4, frame(5, "custom.note", 0))),
        ("never offered", {0: 3}, lambda: changed(4, frame(5, "custom.note", 3))),
    ],
)
def test_a_note_that_was_lost_moved_doubled_or_invented_does_not_pass(
    what: str, acknowledged: dict[int, int], frames: Callable[[], list[Frame]]
) -> None:
    with pytest.raises(AssertionError, match=RUN):
        check_notes(seen(acknowledged), frames())
