"""Checks that must hold after any fault, on the events that clients saw and those that every server returns.

A check fails with an AssertionError that names the run.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence

from tests.kit.cluster import Cluster
from tests.kit.frames import Frame, joined, seqs
from tests.kit.load import Load, Seen

AT_ONCE = 16  # replays


async def check_all(load: Load, cluster: Cluster) -> None:
    """Everything, of a load that has finished. Every server of the cluster has to be up."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def check_run(seen: Seen) -> None:
        async with gate:
            replays = [await load.replay(url.rstrip("/"), seen.run_id) for url in cluster.urls]
        check_stream(seen, replays)
        check_log(seen.run_id, replays[0])
        check_notes(seen, replays[0])

    await asyncio.gather(*map(check_run, load.runs))
    for url in cluster.urls:
        await check_list(load, url.rstrip("/"))
    difference = await asyncio.to_thread(cluster.verify)
    assert not difference, difference


def check_stream(seen: Seen, replays: Iterable[Sequence[Frame]]) -> None:
    """Over all its connections a client saw every event once, in the bytes that any server replays."""
    check_dense(seen.run_id, seen.frames)
    for replay in replays:
        assert seqs(replay) == seqs(seen.frames), (
            f"{seen.run_id}: {len(seen.frames)} seen, {len(replay)} replayed"
        )
        assert joined(replay) == joined(seen.frames), (
            f"{seen.run_id}: {_first_difference(seen.frames, replay)}"
        )


def check_log(run_id: str, frames: Sequence[Frame]) -> None:
    """A closed run's events are its own, dense, with one ending at the end and attempts without a gap."""
    check_dense(run_id, frames)
    for frame in frames:
        assert (frame.event["run_id"], frame.event["seq"], frame.event["type"]) == (
            run_id, frame.seq, frame.type,
        ), f"{run_id}: another's event: {frame}"  # fmt: skip
    endings = [frame.seq for frame in frames if frame.ends]
    assert endings == [len(frames)], f"{run_id}: {len(frames)} events, and endings at {endings}"
    assert frames[0].type == "lifecycle.queued", f"{run_id}: begins with {frames[0]}"
    attempts = [frame.data["attempt"] for frame in frames if frame.type == "lifecycle.started"]
    assert attempts == list(range(1, len(attempts) + 1)), f"{run_id}: attempts {attempts}"


def check_dense(run_id: str, frames: Sequence[Frame]) -> None:
    wrong = [(at, frame.seq) for at, frame in enumerate(frames, 1) if frame.seq != at]
    assert not wrong, f"{run_id}: of {len(frames)} events, (place, seq) {wrong[:5]}"


def check_notes(seen: Seen, frames: Sequence[Frame]) -> None:
    """Each event that was acknowledged to a producer has its seq; each offered one is stored at most once."""
    notes = [frame for frame in frames if frame.type == "custom.note"]
    stored = {frame.data: frame.seq for frame in notes}
    assert len(stored) == len(notes), f"{seen.run_id}: stored twice, of {[frame.data for frame in notes]}"
    lost = seen.acknowledged.items() - stored.items()
    assert not lost, f"{seen.run_id}: acknowledged as (number, seq) {sorted(lost)[:5]}, and not there"
    assert max(stored, default=-1) < seen.offered, f"{seen.run_id}: {max(stored)} was never offered"


def check_said(load: Load, begun: Collection[str]) -> None:
    """Every run ended, and its result is the text of its last attempt, without a word of another run.

    Args:
        begun: the allowed reasons of attempts: `claimed`, `handed_over`, `adopted`.
    """
    for seen in load.runs:
        text: list[tuple[int, str]] = []
        for frame in seen.frames:
            if frame.type == "llm.token":
                text.append((frame.seq, frame.data["text"]))
            elif frame.type == "lifecycle.started":
                assert frame.data["reason"] in begun, f"{seen.run_id}: {frame.data}"
                if (kept := frame.data.get("discard_after_seq")) is not None:
                    text = [(seq, word) for seq, word in text if seq <= kept]
        ending = seen.frames[-1]
        assert ending.type == "lifecycle.completed", f"{seen.run_id}: {ending.type} {ending.data}"
        said = "".join(word for _, word in text)
        assert said == ending.data["result"]["text"], f"{seen.run_id}: said {said!r}"


async def check_list(load: Load, url: str) -> None:
    """A server lists the runs that were started, each once, and no other since the first; all have ended."""
    listed: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await load.get(url, "/runs", limit=1000, **after)
        listed += [run["run_id"] for run in page["data"]]
        assert all(run["completed_at"] for run in page["data"]), f"{url}: lists runs that go on"
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    started = {seen.run_id for seen in load.runs}
    listed = [run_id for run_id in listed if run_id >= min(started)]  # older runs belong to another load
    assert len(listed) == len(set(listed)), f"{url}: lists a run twice"
    assert set(listed) == started, f"{url}: lists {set(listed) ^ started} or not"


def _first_difference(seen: Sequence[Frame], replay: Sequence[Frame]) -> str:
    pairs = zip(seen, replay, strict=True)
    return next(f"seen {one.raw!r}, replayed {other.raw!r}" for one, other in pairs if one.raw != other.raw)
