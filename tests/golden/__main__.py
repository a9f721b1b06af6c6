"""`python -m tests.golden` writes the log of this release."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from runstore import __version__
from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Cancelled,
    CancelRequested,
    Completed,
    Custom,
    Deleted,
    Event,
    Failed,
    Message,
    Purged,
    Queued,
    Reasoning,
    Started,
    Token,
    ToolFailed,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    Usage,
)  # fmt: skip
from runstore.core.ids import new_run_id
from runstore.database.database import Database
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.maintenance.purge import Purge, ended_before
from tests.golden import FOLDER, read_states, read_streams
from tests.kit.database import make_database, open_database, open_sqlite_log, run_list

TEAM = "global/TestTeam/TestWorker"
CALL = {"agent": TEAM, "call_id": "call-1", "tool_use_id": "tool-1", "name": "search"}

COMPLETED: list[Event | Custom] = [
    Queued(
        agent="global", user_id="ann", input="What is 2+2?", session_id="s-1",
        metadata={"b": 1, "a": [None, "ü"]}, definition={"model": "scripted", "tokens": 3},
        parent_run_id="0192f0c1-2d3e-7f45-8a6b-0123456789ab",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    Started(worker_id="worker-1", attempt=1, reason="claimed"),
    AgentStarted(agent="global"),
    AgentStarted(agent=TEAM, call_id="call-1"),
    Reasoning(agent=TEAM, call_id="call-1", text="two and two"),
    ToolStarted(**CALL, input={"query": "2+2", "deep": [1.5, True, None]}),
    ToolProgress(**CALL, output="half"),
    ToolFinished(**CALL, output={"status": "success", "content": [{"text": "4"}]}),
    ToolStarted(agent="global", tool_use_id="tool-2", name="fail"),
    ToolFailed(agent="global", tool_use_id="tool-2", name="fail", output="no such thing"),
    AgentFinished(agent=TEAM, call_id="call-1"),
    *(Token(agent="global", text=text) for text in ("4", " \n\n", "é😀\u2028\x00\"\\", "half \ud83d", "")),
    Message(agent="global", message={"role": "assistant", "content": [{"text": "4"}]}),
    Usage(agent="global", input_tokens=20, output_tokens=5, model="scripted"),
    Usage(agent=TEAM, call_id="call-1", input_tokens=7, output_tokens=1),
    Custom("custom.chart", {"z": 1, "a": b"\x00\xff", "n": 10**18}),
    Custom("custom.empty"),
    AgentFinished(agent="global"),
    Completed(result={"text": "4"}, usage={"input_tokens": 27, "output_tokens": 6, "total_tokens": 33}),
]  # fmt: skip
QUEUED = Queued(agent="demo", user_id="local", input={"messages": ["hi"]})
STARTED = Started(worker_id="worker-1", attempt=1, reason="claimed")
SAID = [Token(agent="demo", text="one "), Token(agent="demo", text="two ")]
CANCEL = CancelRequested(by="ann", reason="superseded", superseded_by="0192f0c1-2d3e-7f45-8a6b-0123456789ab")
RUNS: dict[str, list[Event | Custom]] = {
    "completed": COMPLETED,
    "failed after an adoption": [
        QUEUED, STARTED, *SAID,
        Started(worker_id="worker-2", attempt=2, reason="adopted", discard_after_seq=2),
        *SAID, Failed(code="agent_error", message="ValueError: no"),
    ],
    "handed over, then stopped by force": [
        QUEUED, STARTED, Started(worker_id="worker-2", attempt=2, reason="handed_over"), *SAID, CANCEL,
        Token(agent="demo", text="three "), Cancelled(reason="superseded", forced=True),
    ],
    "deleted": [QUEUED, STARTED, *SAID, Completed(result={}), Deleted(by="ann")],
    "purged": [
        QUEUED, STARTED, *SAID, Completed(result={}, usage={"total_tokens": 2}),
        Purged(
            by="retention", user_id="local", agent="demo", status="success", created_at=1_700_000_000_000,
            started_at=1_700_000_000_010, completed_at=1_700_000_000_500, session_id="s-1",
            workspace_id="red", parent_run_id="0192f0c1-2d3e-7f45-8a6b-0123456789ab", attempt=1,
            error_code="timeout", usage={"total_tokens": 2}, deleted=True,
            counts={
                "lifecycle.queued": 1, "lifecycle.started": 1, "llm.token": 2, "lifecycle.completed": 1,
            },
        ),
    ],
    "stopped in the queue": [QUEUED, CancelRequested(by="local", reason="user"), Cancelled(reason="user")],
    "queued": [QUEUED],
    "running": [QUEUED, STARTED, *SAID, Usage(agent="demo", input_tokens=1, output_tokens=2)],
}  # fmt: skip


async def write_runs(log: SqlEventLog) -> None:
    """All runs at once, event by event, as a server writes them."""
    ids = {name: new_run_id() for name in RUNS}
    for seq in range(max(map(len, RUNS.values()))):
        for name, events in RUNS.items():
            if seq < len(events):
                await log.append(ids[name], [events[seq]], expected_seq=seq)


async def write(database: Path, target: Path) -> None:
    target.mkdir()
    feed = MemoryFeed()
    log = open_sqlite_log(make_database(database), feed)
    await write_runs(log)
    (target / "frames.sse").write_bytes(await read_streams(log, feed))
    states = msgspec.json.format(msgspec.json.encode(await read_states(log)))
    (target / "runs.json").write_bytes(states + b"\n")
    await log.close()
    opened = Database(open_database(database))
    Purge(opened, [run_list()]).run(ended_before(0), by="retention")  # a purge that has begun is finished
    with closing(sqlite3.connect(database)) as connection:
        (target / "log.sql").write_text("\n".join(connection.iterdump()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(write(Path(folder, "runstore.db"), FOLDER / __version__))
