"""A recorder is bound to its run, for every caller and thread."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runstore.core.codec import RecordedEvent, decode
from runstore.core.errors import LogUnavailable
from runstore.core.events import InputAdded, Queued, Started, Token
from runstore.core.ids import new_run_id
from runstore.core.ports import EventFilter, EventLog
from runstore.runtime.attempts.recorder import MAX_ADDED, Recorder
from tests.kit.events import note, start_run

RUNS, WORDS, THREADS = 20, 50, 8


async def test_callbacks_of_many_runs_from_one_pool_of_threads_never_mix(log: EventLog) -> None:
    recorders = {}
    for _ in range(RUNS):
        run_id = new_run_id()
        beginning = [
            Queued(agent="a", user_id="u", input="hi"),
            Started(worker_id="w", attempt=1, reason="claimed"),
        ]
        await log.append(run_id, beginning, expected_seq=0)
        recorders[run_id] = Recorder(log, run_id, attempt=1)
    calls = [(run_id, n) for run_id in recorders for n in range(WORDS)]
    random.Random(1).shuffle(calls)
    loop = asyncio.get_running_loop()

    def call_back(run_id: str, n: int) -> None:
        event = Token(agent="a", text=f"{run_id}:{n}")
        asyncio.run_coroutine_threadsafe(recorders[run_id].record(event), loop).result()

    with ThreadPoolExecutor(THREADS) as threads:
        await asyncio.gather(*(loop.run_in_executor(threads, call_back, *call) for call in calls))
    for run_id, recorder in recorders.items():
        await recorder.commit(Token(agent="a", text=f"{run_id}:last"))
        events = await log.read(run_id, after=2)
        said = [decode(event.type, event.version, event.data) for event in events]
        texts = [event.text for event in said if isinstance(event, Token)]
        assert sorted(texts[:-1]) == sorted(f"{run_id}:{n}" for n in range(WORDS))
        assert texts[-1] == f"{run_id}:last"
        assert [event.seq for event in events] == list(range(3, WORDS + 4))


class Counted:
    """The reads of a log. It cannot be read while it is `down`."""

    def __init__(self, log: EventLog) -> None:
        self.log, self.reads, self.down = log, 0, False

    async def read(
        self,
        run_id: str,
        *,
        after: int = 0,
        upto: int | None = None,
        limit: int = 1000,
        only: EventFilter | None = None,
        from_replica: bool = False,
    ) -> list[RecordedEvent]:
        self.reads += 1
        if self.down:
            raise LogUnavailable
        return await self.log.read(run_id, after=after, upto=upto, limit=limit, only=only)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


@pytest.fixture
def counted(log: EventLog) -> Any:
    return Counted(log)


def said(*contents: str) -> list[InputAdded]:
    return [InputAdded(content=content, by="ann") for content in contents]


async def test_added_messages_are_read_once_and_then_only_when_there_are_some(counted: Any) -> None:
    run_id = await start_run(counted)
    recorder = Recorder(counted, run_id, 1, reader=counted)
    await counted.append(run_id, said("one"))
    assert [(each.seq, each.content) for each in await recorder.added(0)] == [(3, "one")]
    for _ in range(5):
        assert list(await recorder.added(3)) == []
    assert counted.reads == 2, "the second finds no more"
    recorder.notify(await counted.append(run_id, said("two")))
    assert [each.content for each in await recorder.added(3)] == ["two"]
    for _ in range(5):
        assert list(await recorder.added(4)) == []
    assert counted.reads == 4
    assert [each.content for each in await recorder.added(0)] == ["one", "two"], "given back"


async def test_a_message_that_is_announced_while_the_log_is_read_is_found(counted: Any) -> None:
    run_id = await start_run(counted)
    recorder = Recorder(counted, run_id, 1, reader=counted)
    reading = asyncio.ensure_future(recorder.added(0))
    recorder.notify(await counted.append(run_id, said("now")))
    first = list(await reading)
    assert [each.content for each in first or await recorder.added(0)] == ["now"]


async def test_while_the_log_cannot_be_read_the_next_call_looks_again(counted: Any) -> None:
    run_id = await start_run(counted)
    recorder = Recorder(counted, run_id, 1, reader=counted)
    await counted.append(run_id, said("one"))
    counted.down = True
    assert list(await recorder.added(0)) == []
    counted.down = False
    assert [each.content for each in await recorder.added(0)] == ["one"]


async def test_more_messages_than_an_agent_takes_at_once_are_all_found(counted: Any) -> None:
    run_id = await start_run(counted)
    await counted.append(run_id, [note(), *said(*map(str, range(MAX_ADDED + 20)))])
    recorder = Recorder(counted, run_id, 1, reader=counted)
    first = await recorder.added(0)
    rest = await recorder.added(first[-1].seq)
    assert [each.content for each in (*first, *rest)] == [*map(str, range(MAX_ADDED + 20))]


async def test_messages_that_fill_more_than_a_page_are_all_found(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, said(*("x" * 200_000 for _ in range(5))))
    recorder = Recorder(log, run_id, 1, reader=log)
    found = list(await recorder.added(0))
    while more := await recorder.added(found[-1].seq):
        found += more
    assert len(found) == 5


async def test_a_message_from_before_the_attempt_is_found_again_when_it_is_given_back(log: EventLog) -> None:
    run_id = await start_run(log)
    await log.append(run_id, said("one"))
    recorder = Recorder(log, run_id, 1, reader=log)
    for _ in range(2):
        assert [each.content for each in await recorder.added(0)] == ["one"]
        assert list(await recorder.added(3)) == []
