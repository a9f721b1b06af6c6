"""When places are short, users take turns: no user waits behind the whole queue of another."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import runstore
from runstore.app import open_log
from runstore.core.events import Queued, Started
from runstore.core.ids import new_run_id
from runstore.runtime.supervision.sweep import MAX_SWEPT
from runstore.runtime.supervision.waiting import FairQueue
from runstore.settings.program import program_settings
from tests.kit.polling import until


def filled(*waiting: tuple[str, str]) -> FairQueue:
    queue = FairQueue()
    for run_id, user_id in waiting:
        queue.add(run_id, user_id)
    return queue


def emptied(queue: FairQueue) -> list[str]:
    return [queue.take()[0] for _ in range(len(queue))]


def test_users_take_turns_and_their_runs_keep_their_order() -> None:
    queue = filled(("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c"))
    assert emptied(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_later_user_waits_for_one_run_of_every_other_user() -> None:
    queue = filled(*((f"a{n}", "a") for n in range(900)))
    assert queue.take() == ("a0", "a")
    queue.add("b0", "b")
    assert emptied(queue)[:3] == ["a1", "b0", "a2"]


def test_a_run_that_is_added_again_keeps_its_place() -> None:
    queue = filled(("a1", "a"), ("a2", "a"), ("a1", "a"))
    assert emptied(queue) == ["a1", "a2"]


def test_a_run_that_was_removed_does_not_come() -> None:
    queue = filled(("a1", "a"), ("b1", "b"), ("b2", "b"))
    for run_id in ("a1", "b1", "nobody's"):
        queue.remove(run_id)
    assert emptied(queue) == ["b2"]


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("abc")), unique_by=lambda each: each[0]))
def test_every_added_run_comes_once_and_in_its_users_order(added: list[tuple[int, str]]) -> None:
    queue = filled(*((str(number), user) for number, user in added))
    taken = [queue.take() for _ in range(len(queue))]
    for user in "abc":
        assert [run for run, owner in taken if owner == user] == [str(n) for n, u in added if u == user]

    assert len(queue) == 0


# With a real database

HELD = asyncio.Event()


async def hold(input: str) -> AsyncIterator[str]:
    """An agent that takes the only place until the test is done with it."""
    while not HELD.is_set():
        await asyncio.sleep(0.005)
    yield "done"


async def say(input: str) -> AsyncIterator[str]:
    yield input


def narrow(folder: Path) -> Path:
    path = folder / "runstore.toml"
    path.write_text("[server]\ncapacity = 1\n")
    return path


async def test_a_users_only_run_does_not_wait_for_all_that_another_has_queued(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runstore.db"
    HELD.clear()
    async with runstore.open(url, config=narrow(tmp_path), agents={"hold": hold, "say": say}) as store:
        holder = await store.start("hold", "", user_id="holder")
        flood = [await store.start("say", "", user_id="flood") for _ in range(20)]
        mine = await store.start("say", "", user_id="mine")
        HELD.set()
        ended = [await store.state(run_id, wait_s=20) for run_id in (holder, mine, *flood)]
    assert {run.status for run in ended} == {"success"}
    starts = [run.started_at for run in ended[2:]]
    before = [at for at in starts if at is not None and ended[1].started_at and at < ended[1].started_at]
    assert len(before) <= 1


async def test_a_flood_that_is_longer_than_a_sweep_hides_no_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runstore.db"
    agents = {"say": "tests.runtime.supervision.test_waiting:say"}
    settings = program_settings(url, narrow(tmp_path), agents)
    async with open_log(settings) as opened:
        queued = [Queued(agent="say", user_id="flood", input="") for _ in range(MAX_SWEPT + 1)]
        queued.append(Queued(agent="say", user_id="mine", input=""))
        mine = new_run_id()
        ids = [*(new_run_id() for _ in range(MAX_SWEPT + 1)), mine]
        await asyncio.gather(
            *(opened.event_log.append(*each) for each in zip(ids, ([q] for q in queued), strict=True))
        )
    async with runstore.open(url, config=narrow(tmp_path), agents=agents) as store:
        await until(lambda: _has_ended(store, mine))
    async with open_log(settings) as opened:
        events = await opened.event_log.read_all(after=MAX_SWEPT + 2)
    starts = [event.run_id for event in events if event.type == Started.type]
    assert starts.index(mine) == 1, "one of the flood's comes before it"


async def _has_ended(store: runstore.LocalStore, run_id: str) -> bool:
    return (await store.state(run_id)).closed
