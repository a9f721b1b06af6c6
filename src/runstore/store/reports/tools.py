"""The calls of tools by agent, tool or day, with estimates of how long they took."""

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, func, select

from runstore.core.errors import InvalidQuery
from runstore.core.folds.tool_usage import BUCKETS_MS
from runstore.projections.tools import BUCKETS, ToolsProjection
from runstore.store.reports.conditions import bounded, check_rows, equal, in_days, tables_of

GROUPS = ("day", "agent", "tool")


class ToolsQuery(Struct, frozen=True, kw_only=True):
    """`group`: of GROUPS. `since`, `until`: days on which the runs were queued, both inclusive."""

    group: tuple[str, ...] = ("agent", "tool")
    agent: str | None = None
    tool: str | None = None
    since: str | None = None
    until: str | None = None


class ToolRow(Struct, frozen=True):
    """The calls of a group. The times are estimates from the histogram; None: no call has ended."""

    calls: int
    failures: int
    mean_ms: int | None
    p50_ms: int | None
    p95_ms: int | None
    day: str | None = None
    agent: str | None = None
    tool: str | None = None


def report_tools(connection: Connection, query: ToolsQuery) -> list[ToolRow]:
    """Each group, by default each tool of each agent, the most called first."""
    if not query.group or len({*query.group}) < len(query.group) or not {*query.group} <= {*GROUPS}:
        raise InvalidQuery(f"group must have some of {', '.join(GROUPS)}, each once")
    table = tables_of(connection, ToolsProjection())["tools"]
    names = ("calls", "failures", "duration_ms", *BUCKETS)
    calls, groups = func.sum(table.c.calls), [table.c[name] for name in query.group]
    summed_up = (
        select(*(func.sum(table.c[name]) for name in names), *groups)
        .where(*in_days(table, query), *equal(table, agent=query.agent, tool=query.tool))
        .group_by(*groups)
        .order_by(calls.desc(), *groups)
    )
    rows = connection.execute(bounded(summed_up))
    found = [
        _tool_row(dict(zip(query.group, row[len(names) :], strict=True)), *map(int, row[: len(names)]))
        for row in rows
    ]
    check_rows(len(found))
    return found


def _tool_row(group: dict[str, str], calls: int, failures: int, duration_ms: int, *latencies: int) -> ToolRow:
    ended = sum(latencies)
    return ToolRow(
        calls, failures, round(duration_ms / ended) if ended else None,
        quantile(latencies, 0.5), quantile(latencies, 0.95), **group,
    )  # fmt: skip


def quantile(latencies: Sequence[int], part: float) -> int | None:
    """The duration that `part` of the calls do not exceed, in ms: linear within its bucket.

    Calls above the last limit count as that long, as in Prometheus.
    """
    left = part * sum(latencies)
    if not left:
        return None
    low = 0
    for count, high in zip(latencies, (*BUCKETS_MS, BUCKETS_MS[-1]), strict=True):
        if count and left <= count:
            return round(low + (high - low) * left / count)
        left -= count
        low = high
    return BUCKETS_MS[-1]
