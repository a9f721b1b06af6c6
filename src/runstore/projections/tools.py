"""The calls of each tool by each agent: how many, how many failed, and a histogram of how long they took.

A call counts on the day (UTC) when its run was queued.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, select
from typing_extensions import override

from runstore.core.codec import RecordedEvent
from runstore.core.events import ENDINGS, Purged, Queued, ToolUsage
from runstore.core.folds.tool_usage import BUCKETS_MS, MAX_NAME, TOOL_TYPES, RunTools
from runstore.core.ports import EventFilter
from runstore.core.times import day_of
from runstore.database.columns import Binary, Name
from runstore.database.keys import rows_with
from runstore.database.upserts import add_rows, delete_rows, put_rows
from runstore.projections.projection import Projection

BUCKETS = (*(f"le_{limit}" for limit in BUCKETS_MS), "le_inf")  # columns: calls that took up to so many ms
SUMS = ("calls", "failures", "duration_ms", *BUCKETS)

_tables = MetaData()

TOOLS = Table(
    "tools",
    _tables,
    Column("day", Name(10), primary_key=True),
    Column("agent", Name(MAX_NAME), primary_key=True),
    Column("tool", Name(MAX_NAME), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
)
RUNS = Table(
    "tools_runs",
    _tables,
    Column("run_id", Name(36), primary_key=True),
    Column("day", Name(10), nullable=False),
    Column("state", Binary, nullable=False),
)


class _Run(Struct):
    """The state of one run. `ended`: only its `run.purged` can follow."""

    day: str
    tools: RunTools
    ended: bool = False

    @property
    def kept(self) -> bool:
        return bool(self.tools.tools) or not self.ended


class ToolsProjection(Projection):
    """The projection `tools`."""

    name: ClassVar[str] = "tools"
    reads: ClassVar[EventFilter | None] = EventFilter(
        types=frozenset({Queued.type, Purged.type, *ENDINGS, *TOOL_TYPES})
    )
    tables: Sequence[Table] = (TOOLS, RUNS)

    @override
    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        totals, runs = self.tables
        begun = {event.run_id for event in events if event.type == Queued.type}
        known = _read_runs(connection, runs, sorted({e.run_id for e in events} - begun))
        stored = set(known)
        changes: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0] * len(SUMS))
        for run in known.values():
            _count(changes, run, -1)
        for event in events:
            if event.type == Queued.type:
                known[event.run_id] = _Run(day_of(event.at), RunTools())
            elif event.type == Purged.type:
                purged = _read_purged(event.data)
                tools = RunTools([*purged.tools])
                known[event.run_id] = _Run(day_of(purged.created_at), tools, ended=True)
            elif event.run_id in known:  # others follow as a `run.purged`
                known[event.run_id].tools.add(event)
                known[event.run_id].ended |= event.ends
        for run in known.values():
            _count(changes, run, 1)
        put_rows(connection, runs, [_row(run_id, run) for run_id, run in known.items() if run.kept])
        ended = [run_id for run_id, run in known.items() if not run.kept and run_id in stored]
        delete_rows(connection, runs, [{"run_id": run_id} for run_id in ended])
        rows: list[dict[str, Any]] = [
            dict(zip(("day", "agent", "tool", *SUMS), (*key, *sums), strict=True))
            for key, sums in sorted(changes.items())
            if any(sums)
        ]
        add_rows(connection, totals, rows, SUMS)
        lowered = [row for row in rows if min(row["calls"], row["failures"]) < 0]
        delete_rows(connection, totals, lowered, calls=0, failures=0)


class _Purged(Struct, frozen=True):
    created_at: int
    tools: list[ToolUsage] = []


_read_purged = msgspec.json.Decoder(_Purged).decode
_read_state = msgspec.json.Decoder(RunTools).decode
_encode_state = msgspec.json.Encoder().encode


def _count(changes: dict[tuple[str, str, str], list[int]], run: _Run, sign: int) -> None:
    """Count a run's calls in; with `sign` -1 out."""
    for used in run.tools.tools:
        sums = changes[run.day, used.agent, used.tool]
        for place, value in enumerate((used.calls, used.failures, used.duration_ms, *used.latencies)):
            sums[place] += sign * value


def _row(run_id: str, run: _Run) -> dict[str, Any]:
    return {"run_id": run_id, "day": run.day, "state": _encode_state(run.tools)}


def _read_runs(connection: Connection, runs: Table, run_ids: list[str]) -> dict[str, _Run]:
    rows = rows_with(connection, select(runs), runs.c.run_id, run_ids)
    return {row.run_id: _Run(row.day, _read_state(row.state)) for row in rows}
