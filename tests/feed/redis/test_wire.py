"""The events that one entry of Redis joins, and those that it leaves out."""

import msgspec

from runstore.core.ids import new_run_id
from runstore.core.ports import Committed
from runstore.feed.redis.wire import (
    MAX_ENTRY_BYTES,
    MAX_JOINED_BYTES,
    NO_EVENTS,
    Keys,
    Wire,
    control_events,
    join,
)
from tests.kit.events import CANCEL, COMPLETED, QUEUED, note, token
from tests.kit.live import RUN, committed

OTHER = new_run_id()
HERE, THERE = Wire("here"), Wire("there")


def parts(*commits: Committed) -> list[tuple[str, int, int]]:
    return [(part.run_id, part.first_seq, part.last_seq) for part in join(commits)]


def test_commits_of_a_run_that_follow_one_another_are_one_part() -> None:
    other = committed(1, QUEUED, token(), run_id=OTHER)
    assert parts(committed(1, QUEUED), other, committed(2, token()), committed(3, token())) == [
        (RUN, 1, 3),
        (OTHER, 1, 2),
    ]


def test_commits_with_a_gap_between_them_are_two_parts() -> None:
    assert parts(committed(1, QUEUED), committed(3, token()), committed(4, token())) == [
        (RUN, 1, 1),
        (RUN, 3, 4),
    ]


def test_a_part_does_not_grow_without_end() -> None:
    joined = join([committed(seq, note("x" * 1_000)) for seq in range(1, 101)])
    assert 6 < len(joined) < 10
    assert all(part.size <= MAX_JOINED_BYTES for part in joined)
    assert [part.first_seq for part in joined[1:]] == [part.last_seq + 1 for part in joined[:-1]]


def test_a_joined_part_leaves_the_commits_as_they_are() -> None:
    first = committed(1, QUEUED)
    join([first, committed(2, token())])
    assert len(first.events) == 1


def test_an_entry_is_read_as_it_was_written() -> None:
    commit = committed(7, token("ü"), COMPLETED)
    (part,) = join([commit])
    entry = (b"8-0", [HERE.tag, HERE.run_entry(part)])
    read = THERE.read_run(RUN, entry)
    assert isinstance(read, Committed)
    assert (read.run_id, read.first_seq, list(read.events)) == (RUN, 7, list(commit.events))
    assert not read.control  # the control stream also brings the process's own events to its listeners
    assert HERE.read_run(RUN, entry) is None  # our own


def test_a_large_part_is_a_hint() -> None:
    (part,) = join([committed(1, QUEUED, note("x" * MAX_ENTRY_BYTES))])
    assert HERE.run_entry(part) == NO_EVENTS
    assert THERE.read_run(RUN, (b"2-0", [HERE.tag, NO_EVENTS])) == 2


def test_a_part_that_redacts_is_a_hint_and_so_is_what_it_joined() -> None:
    redacting = msgspec.structs.replace(committed(2, token("b")), redacts=True)
    (part,) = join([committed(1, token("a")), redacting, committed(3, token("c"))])
    assert (part.redacts, part.last_seq) == (True, 3)
    assert HERE.run_entry(part) == NO_EVENTS


def test_the_control_stream_has_what_decides_something_and_whose_a_queued_run_is() -> None:
    events = control_events([committed(1, QUEUED, token(), CANCEL), committed(4, token())])
    assert [(event.seq, event.type) for event in events] == [(1, "lifecycle.queued"), (3, "cancel.requested")]
    entry = (b"1795000000000-0", [HERE.tag, HERE.control_entry(events)])
    read = THERE.read_control(entry)
    assert [(one.first_seq, one.events[0].data) for one in read] == [(1, b'{"user_id":"local"}'), (3, b"")]
    assert all(one.control and one.remote for one in read)
    assert HERE.read_control(entry) == []


def test_a_key_names_its_run() -> None:
    keys = Keys("some:prefix", "here")
    assert keys.run_id(keys.run(RUN)) == RUN
