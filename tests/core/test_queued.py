"""The options of a run, as all rooms read them."""

import msgspec

from runstore.core.codec import encode
from runstore.core.events import Purged, Queued
from runstore.core.queued import read_queued


def test_a_queued_run_keeps_its_input_as_json() -> None:
    event = encode(Queued(agent="a", user_id="ann", input=["hi", {"n": 1}], session_id="s", key_id="k"), at=1)
    queued = read_queued(event)
    assert (queued.agent, queued.user_id, queued.session_id, queued.key_id) == ("a", "ann", "s", "k")
    assert msgspec.json.decode(queued.input) == ["hi", {"n": 1}]


def test_a_purged_run_was_queued_by_the_user_of_its_summary() -> None:
    purged = Purged("root", "ann", "a", "success", 1, 2, {}, session_id="s")
    queued = read_queued(encode(purged, at=3))
    assert (queued.agent, queued.user_id, queued.session_id) == ("a", "ann", "s")


def test_a_strategy_of_a_newer_release_can_be_read() -> None:
    event = encode(Queued(agent="a", user_id="ann", input="hi"), at=1)
    newer = msgspec.structs.replace(event, data=event.data[:-1] + b',"multitask_strategy":"later"}')
    assert read_queued(newer).multitask_strategy == "later"
