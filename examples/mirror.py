"""Mirrors all events into another system, here a SQLite file: python mirror.py URL mirror.db [--once]

The position of the last event is stored in the transaction of the events, so that each one arrives once,
however often the program is killed.
"""

import asyncio
import json
import sqlite3
import sys
from contextlib import closing

import runstore

BATCH = 500  # events of one transaction
SCHEMA = """
CREATE TABLE IF NOT EXISTS mirrored (
    position INTEGER PRIMARY KEY, run_id TEXT, seq INTEGER, type TEXT, data TEXT
);
CREATE TABLE IF NOT EXISTS reached (position INTEGER NOT NULL);
INSERT INTO reached SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM reached);
"""


async def mirror(url: str, target: sqlite3.Connection, *, once: bool) -> None:
    target.executescript(SCHEMA)
    (after,) = target.execute("SELECT position FROM reached").fetchone()
    async with runstore.open(url) as store:
        events = store.read_all(after=after) if once else store.follow_all(after=after)
        waiting: list[runstore.AuditEvent] = []
        async for event in events:
            waiting.append(event)
            if len(waiting) == BATCH or not once:
                write(target, waiting)
                waiting = []
        write(target, waiting)


def write(target: sqlite3.Connection, events: "list[runstore.AuditEvent]") -> None:
    if not events:
        return
    with target:
        rows = [(e.position, e.run_id, e.seq, e.type, json.dumps(e.data)) for e in events]
        target.executemany("INSERT INTO mirrored VALUES (?, ?, ?, ?, ?)", rows)
        target.execute("UPDATE reached SET position = ?", (events[-1].position,))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with closing(sqlite3.connect(sys.argv[2])) as target:
        asyncio.run(mirror(sys.argv[1], target, once="--once" in sys.argv))
