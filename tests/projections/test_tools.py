"""Tool calls and their latencies, compared with a plain fold of the log."""

from typing import Any

from runstore.core.codec import decode
from runstore.core.events import Queued, ToolFailed, ToolFinished, ToolStarted
from runstore.projections.tools import BUCKETS, ToolsProjection
from tests.projections.conftest import Tables
from tests.projections.history import History
from tests.projections.test_usage import day

LIMITS = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000]


def by_hand(history: History) -> dict[Any, list[int]]:
    days: dict[str, str] = {}
    began: dict[tuple[str, str], int] = {}
    tools: dict[Any, list[int]] = {}
    for recorded in history.appended:
        match event := decode(recorded.type, recorded.version, recorded.data):
            case Queued():
                days[recorded.run_id] = day(recorded.at)
            case ToolStarted() | ToolFinished() | ToolFailed():
                key = (days[recorded.run_id], event.agent, event.name)
                sums = tools.setdefault(key, [0] * (3 + len(BUCKETS)))
                call = (recorded.run_id, event.tool_use_id)
                if isinstance(event, ToolStarted):
                    began[call] = recorded.at
                    sums[0] += 1
                else:
                    took = recorded.at - began[call]
                    sums[1] += isinstance(event, ToolFailed)
                    sums[2] += took
                    sums[3 + sum(took > limit for limit in LIMITS)] += 1
    return tools


def test_tool_calls_are_what_a_plain_fold_of_the_log_comes_to(tables: Tables) -> None:
    history = History(17).write(70)
    bound = tables.fill(ToolsProjection(), [history.appended])
    found = {tuple(row[:3]): list(row[3:]) for row in tables.rows(bound, 0)}
    assert found == by_hand(history)
    assert len(found) > 4


def test_runs_that_ended_without_a_tool_leave_no_row(tables: Tables) -> None:
    history = History(17).write(70)
    bound = tables.fill(ToolsProjection(), [history.appended])
    used = {event.run_id for event in history.appended if event.type == "tool.started"}
    ended = {event.run_id for event in history.appended if event.ends}
    kept = {row.run_id for row in tables.rows(bound, 1)}
    assert used <= kept
    assert not kept & (ended - used)
