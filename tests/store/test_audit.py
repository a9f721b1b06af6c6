"""The audit log: every event once, in order of position, for any filter and any overlap of writers."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import make_url

from runstore.core import codec
from runstore.core.audit import AuditEvent, AuditItem, AuditQuery, audit_event, audit_line
from runstore.core.codec import RecordedEvent, one_line
from runstore.core.errors import InvalidCursor
from runstore.core.events import AuditRead, Deleted, Queued
from runstore.core.ids import new_run_id, read_run_id, reads_id
from runstore.core.run import Actor
from runstore.database.dialects import open_dialect
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.store import audit, whole_log
from runstore.store.audit import AuditLog
from tests.kit.events import COMPLETED, FAILED, note, started, token
from tests.kit.polling import DEADLINE_S
from tests.kit.purging import erase
from tests.kit.writer import writing
from tests.servers.databases import DATABASES

OpenLog = Callable[..., SqlEventLog]

servers = pytest.mark.parametrize(
    "database_url", [kind for kind in DATABASES if kind != "sqlite"], indirect=True
)


def audit_of(log: SqlEventLog, feed: MemoryFeed | None = None) -> AuditLog:
    return AuditLog(log.database, log, feed or MemoryFeed(), heartbeat_s=0.05)


async def begin(log: SqlEventLog, **fields: Any) -> str:
    run_id = new_run_id()
    queued = Queued(**{"agent": "demo", "user_id": "alice", "input": "hi", **fields})
    await log.append(run_id, [queued, started()], expected_seq=0)
    return run_id


async def read(log: SqlEventLog, limit: int = 1_000, after: int = 0, **query: Any) -> list[AuditItem]:
    """All matching events, page by page."""
    found: list[AuditItem] = []
    reader, asked = audit_of(log), AuditQuery(**query)
    while True:
        page = await reader.page(asked, after=after, limit=limit)
        assert len(page.items) <= limit
        assert page.upto >= (page.items[-1].event.position if page.items else after)
        found += page.items
        if not page.more:
            return found
        assert page.upto > after, "the page makes no progress"
        after = page.upto


async def written(log: SqlEventLog) -> list[RecordedEvent]:
    found: list[RecordedEvent] = []
    while page := await log.read_all(after=found[-1].position if found else 0):
        found += page
    return found


async def test_all_events_come_in_order_with_whose_they_are(open_shared: OpenLog) -> None:
    log = open_shared()
    first, second = await begin(log), await begin(log, user_id="bob", agent="other")
    await log.append(first, [token("ä "), COMPLETED])
    await log.append(first, [Deleted(by="root")])
    items = await read(log, limit=3)
    assert [item.event for item in items] == await written(log)
    assert {(item.event.run_id, item.user_id, item.agent) for item in items} == {
        (first, "alice", "demo"), (second, "bob", "other"),
    }  # fmt: skip
    assert [item.by for item in items] == [None] * 6 + ["root"]
    for item in items:
        assert msgspec.json.decode(audit_line(item), type=AuditEvent) == audit_event(item)


FILTERS: list[dict[str, Any]] = [
    {"user_id": "alice"},
    {"agent": "other"},
    {"session_id": "s"},
    {"workspace_id": "w"},
    {"user_id": "bob", "agent": "other"},
    {"session_id": "s", "user_id": "alice", "workspace_id": "w"},
    {"user_id": "nobody"},
    {"types": ("tool.*", "llm.token")},
    {"types": ("lifecycle.*",), "user_id": "alice"},
    {"types": ("custom.note",), "agent": "demo", "contains": "7"},
    {"contains": 'Größe "7"\n'},
    {"contains": "größe"},
    {"contains": "\x85a\u2028b\u2029"},
]


@pytest.mark.parametrize("merged_runs", [500, 2], ids=["few runs", "many runs"])
async def test_a_filter_leaves_what_a_plain_fold_of_the_log_leaves(
    open_shared: OpenLog, merged_runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_log, "MERGED_RUNS", merged_runs)
    monkeypatch.setattr(whole_log, "WINDOW", 7)  # several steps for each run
    monkeypatch.setattr(whole_log, "MAX_EXAMINED", 50)  # and several pages
    log, chance = open_shared(), random.Random(1)
    runs: dict[str, dict[str, Any]] = {}
    for _ in range(8):
        fields = {
            "user_id": chance.choice(["alice", "bob"]), "agent": chance.choice(["demo", "other"]),
            "session_id": chance.choice([None, "s"]),
            "workspace_id": chance.choice([None, "w"]), "multitask_strategy": "parallel",
        }  # fmt: skip
        runs[await begin(log, **fields)] = fields
    for run_id in chance.choices(list(runs), k=50):
        text = chance.choice(["7", 'Größe "7"\n', "x", "-\x85a\u2028b\u2029-"])
        await log.append(run_id, [token(text) if chance.random() < 0.5 else note(text)])
    for run_id in list(runs)[:3]:
        await log.append(run_id, [chance.choice([COMPLETED, FAILED])])
    everything = await written(log)
    for asked in FILTERS:
        wanted = [event for event in everything if matches(event, runs[event.run_id], asked)]
        assert [item.event for item in await read(log, 4, **asked)] == wanted, asked
        middle = everything[len(everything) // 2].position
        found = await read(log, 10, after=middle, **asked)
        assert [item.event for item in found] == [e for e in wanted if e.position > middle], asked
    run_id = next(iter(runs))
    own = await read(log, 5, run_id=run_id)
    assert [item.event for item in own] == [event for event in everything if event.run_id == run_id]


def matches(event: RecordedEvent, run: dict[str, Any], asked: dict[str, Any]) -> bool:
    types = asked.get("types", ("*",))
    text = one_line(msgspec.json.encode(asked.get("contains", "")))[1:-1]
    return (
        all(run[name] == asked[name] for name in asked if name in run)
        and any(event.type == each or event.type.startswith(each.removesuffix("*")) for each in types
                if event.type == each or each.endswith("*"))
        and text in event.data
    )  # fmt: skip


async def test_a_text_with_line_ends_is_found_also_where_an_earlier_release_stored_it(
    open_shared: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_shared()
    run_id = await begin(log)
    await log.append(run_id, [note("a\u2028b"), note("a b")])
    with monkeypatch.context() as patch:
        patch.setattr(codec, "one_line", lambda json: json)
        await log.append(run_id, [note("a\u2028b")])
    assert [item.event.data for item in await read(log, contains="a\u2028b")] == [
        b'"a\\u2028b"', '"a\u2028b"'.encode(),
    ]  # fmt: skip


@pytest.mark.parametrize("merged_runs", [500, 0], ids=["few runs", "many runs"])
async def test_the_reads_of_a_run_are_found_by_the_filters_of_that_run(
    open_shared: OpenLog, merged_runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_log, "MERGED_RUNS", merged_runs)
    log = open_shared()
    run_id, other = await begin(log), await begin(log, user_id="bob", agent="other")
    reads = audit_of(log).reads
    for _ in range(2):  # the second time is no news
        await reads.of_run(Actor("carol", "k1"), run_id, "record")
        await reads.of_run(Actor("carol", "k1"), other, "stream")
        await reads.of_all(Actor("carol"), "list", {"agent": "demo"})
    everything = await read(log)
    assert [item.event for item in everything] == await written(log)
    asked: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [4, 5, 6]), ({"user_id": "alice"}, [4]), ({"agent": "other"}, [5]), ({"run_id": run_id}, [4]),
        ({"run_id": reads_id(run_id)}, [4]), ({"contains": "carol"}, [4, 5, 6]), ({"contains": "demo"}, [6]),
    ]  # fmt: skip
    for query, places in asked:
        found = await read(log, types=("audit.*",), **query)
        assert found == [everything[place] for place in places], query
        assert {item.by for item in found} == {"carol"}
    assert [(item.user_id, item.agent) for item in everything[4:]] == [
        ("alice", "demo"), ("bob", "other"), ("", ""),
    ]  # fmt: skip


async def test_a_time_is_compared_with_when_an_event_happened(open_shared: OpenLog) -> None:
    log = open_shared()
    for _ in range(3):
        await begin(log)
        await asyncio.sleep(0.002)  # to another millisecond
    everything = await written(log)
    middle = everything[2].at
    assert [item.event for item in await read(log, since=middle)] == everything[2:]
    assert [item.event for item in await read(log, until=middle)] == [e for e in everything if e.at <= middle]
    assert await read(log, since=everything[-1].at + 1) == []
    assert await read(log, until=everything[0].at - 1) == []


async def test_a_time_filter_reads_no_older_and_newer_runs(
    open_shared: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run ids, and not clocks, say where in the log a time is."""
    log = open_shared()
    for _ in range(5):
        await begin(log)
    everything = await written(log)
    monkeypatch.setattr(whole_log, "MAX_EXAMINED", 1)
    monkeypatch.setattr(whole_log, "WINDOW", 1)
    monkeypatch.setattr(whole_log, "CLOCKS_MS", 0)
    monkeypatch.setattr(whole_log, "LATE_MS", 0)
    last = everything[-1]
    page = await audit_of(log).page(AuditQuery(since=last.at + 1_000), after=0)
    assert (page.items, page.upto, page.more) == ([], last.position, False)
    page = await audit_of(log).page(AuditQuery(until=everything[0].at - 1_000), after=0)
    assert (page.items, page.upto, page.more) == ([], last.position, False)


async def test_a_page_that_has_examined_enough_ends_and_the_next_one_goes_on(
    open_shared: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_log, "MAX_EXAMINED", 10)
    monkeypatch.setattr(whole_log, "WINDOW", 10)
    log = open_shared()
    run_id = await begin(log)
    await log.append(run_id, [token() for _ in range(40)])
    await log.append(run_id, [note("here")])
    for asked in ({"types": ("custom.*",)}, {"types": ("custom.*",), "user_id": "alice"}):
        page = await audit_of(log).page(AuditQuery(**asked), after=0)
        assert (page.items, page.more) == ([], True)
        assert 0 < page.upto < 20
        assert [item.event.type for item in await read(log, **asked)] == ["custom.note"]


async def test_a_page_is_bounded_in_bytes(open_shared: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_log, "MAX_BYTES", 1_000)
    log = open_shared()
    run_id = await begin(log)
    await log.append(run_id, [note("x" * 600) for _ in range(5)])
    for asked in ({"types": ("custom.*",)}, {"types": ("custom.*",), "user_id": "alice"}):
        page = await audit_of(log).page(AuditQuery(**asked), after=0)
        assert (len(page.items), page.more) == (2, True)
        assert len(await read(log, **asked)) == 5


async def test_a_cursor_ahead_of_the_log_is_refused(open_shared: OpenLog) -> None:
    log = open_shared()
    await begin(log)
    last = (await written(log))[-1].position
    await audit_of(log).check(last)
    with pytest.raises(InvalidCursor, match="ahead of the log"):
        await audit_of(log).check(last + 1)


@servers
@pytest.mark.parametrize("asked", [{}, {"user_id": "alice"}], ids=["all", "of a user"])
async def test_a_follower_misses_no_event_of_writers_that_overlap(
    open_shared: OpenLog, database_url: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between an event's position and its commit each writer waits for a random time."""
    monkeypatch.setattr(audit, "POLL_S", 0)  # look as often as possible
    log = open_shared()
    runs = [await begin(log) for _ in range(2)]
    reader = audit_of(log)
    dialect = open_dialect(make_url(database_url))

    def write(run_id: str) -> None:
        chance, seq = random.Random(run_id), 3
        for _ in range(40):
            with writing(dialect, run_id, seq) as (connection, _):
                time.sleep(chance.uniform(0, 0.004))
                if chance.random() < 0.8:
                    connection.commit()
                    seq += 1

    async def follow(writers: "asyncio.Future[Any]") -> list[AuditItem]:
        found: list[AuditItem] = []
        async for items in reader.follow(AuditQuery(**asked), after=0):
            found += items
            if writers.done() and len(found) >= await count(log):
                return found
        return found

    async with asyncio.timeout(DEADLINE_S):
        writers = asyncio.gather(*(asyncio.to_thread(write, run_id) for run_id in runs))
        found = await follow(writers)
        await writers
    dialect.close()
    assert [item.event for item in found] == await written(log)


async def count(log: SqlEventLog) -> int:
    heads = [await log.head(run_id) for run_id in {event.run_id for event in await written(log)}]
    return sum(head.seq for head in heads if head)


async def test_a_follower_goes_on_live_and_ends_with_the_feed(open_shared: OpenLog) -> None:
    feed = MemoryFeed()
    log = open_shared(feed)
    follower = aiter(audit_of(log, feed).follow(AuditQuery(types=("custom.*",)), after=0))
    run_id = await begin(log)
    await log.append(run_id, [note("0")])
    assert await take(follower) == ['"0"']
    await log.append(run_id, [token(), note("1")])
    assert await take(follower) == ['"1"']
    feed.close()
    with pytest.raises(StopAsyncIteration):
        await take(follower)


async def test_followers_that_have_all_events_share_one_poll(open_shared: OpenLog) -> None:
    feed = MemoryFeed()
    log = open_shared(feed)
    reader = AuditLog(log.database, log, feed, heartbeat_s=30)
    run_id = await begin(log)
    await log.append(run_id, [note("0")])
    followers = [aiter(reader.follow(AuditQuery(types=("custom.*",)), after=0)) for _ in range(20)]
    assert [await take(each) for each in followers] == [['"0"']] * 20
    reads, polls = 0, asyncio.Semaphore(0)
    ask = reader._end._read

    async def poll() -> int:
        polls.release()
        return await ask()

    async def page(*_arguments: Any, **_options: Any) -> Any:
        nonlocal reads
        reads += 1
        return await AuditLog.page(reader, *_arguments, **_options)

    reader._end._read, reader.page = poll, page  # type: ignore[method-assign]
    waiting = [asyncio.create_task(take(each)) for each in followers]
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(5):
            await polls.acquire()
    idle = reads
    await log.append(run_id, [note("1")])
    assert await asyncio.gather(*waiting) == [['"1"']] * 20
    assert idle <= 2 * 20
    feed.close()


async def take(follower: "AsyncIterator[Any]") -> list[str]:
    """The data of the next events; heartbeats are passed over."""
    async with asyncio.timeout(DEADLINE_S):
        while not (items := await anext(follower)):
            pass
    return [item.event.data.decode() for item in items]


async def test_a_person_erased_by_another_process_is_not_named_again(
    open_shared: OpenLog, database_url: str
) -> None:
    log = open_shared()
    run_id, other = await begin(log), await begin(log, user_id="bob")
    await log.append(run_id, [COMPLETED])
    await log.append(reads_id(run_id), [AuditRead(by="root", key_id=None, what="audit", run_id=run_id)])
    reader, following = audit_of(log), audit_of(log).follow(AuditQuery(), after=0)
    page = await reader.page(AuditQuery(), after=0)
    await anext(following)
    assert {item.user_id for item in page.items} == {"alice", "bob"}
    await asyncio.to_thread(erase, database_url, "alice")
    page = await reader.page(AuditQuery(), after=0)
    names = {read_run_id(item.event.run_id): item.user_id for item in page.items}
    assert names[run_id].startswith("erased-")
    assert names[other] == "bob"
    assert "alice" not in {item.user_id for item in page.items}
    live = [item for item in await anext(following) if read_run_id(item.event.run_id) == run_id]
    assert live
    assert {item.user_id for item in live} == {names[run_id]}


async def test_an_answer_that_an_erasure_overtakes_is_not_cached(
    open_shared: OpenLog, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_shared()
    run_id = await begin(log)
    await log.append(run_id, [COMPLETED])
    reader, read_owners = audit_of(log), audit._read_owners

    def overtaken(*args: Any) -> Any:
        found = read_owners(*args)
        monkeypatch.setattr(audit, "_read_owners", read_owners)
        erasing = threading.Thread(target=erase, args=(database_url, "alice"))
        erasing.start()
        erasing.join()
        asyncio.run_coroutine_threadsafe(reader.page(AuditQuery(), after=0), loop).result()
        return found

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(audit, "_read_owners", overtaken)
    await reader.page(AuditQuery(), after=0)
    page = await reader.page(AuditQuery(), after=0)
    assert "alice" not in {item.user_id for item in page.items}


async def test_a_run_that_was_not_found_is_named_once_it_is_there(open_shared: OpenLog) -> None:
    log = open_shared()
    run_id, reader = new_run_id(), audit_of(log)
    await log.append(reads_id(run_id), [AuditRead(by="root", key_id=None, what="audit", run_id=run_id)])
    assert [item.user_id for item in (await reader.page(AuditQuery(), after=0)).items] == [""]
    await log.append(run_id, [Queued(agent="demo", user_id="alice", input="hi")], expected_seq=0)
    assert {item.user_id for item in (await reader.page(AuditQuery(), after=0)).items} == {"alice"}
