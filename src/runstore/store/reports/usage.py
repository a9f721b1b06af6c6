"""Usage and cost, summed per day, user, agent and model."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Table, case, func, select

from runstore.core.errors import InvalidQuery
from runstore.core.outcomes import RUN_COUNTS
from runstore.core.usage import CALL_SUMS
from runstore.database.columns import Name
from runstore.projections.usage import UsageProjection
from runstore.store.reports.conditions import bounded, check_rows, equal, in_days, tables_of

GROUPS = ("day", "user", "agent", "model")
GROUP_COLUMNS = {"day": "day", "user": "user_id", "agent": "agent", "model": "model"}


class UsageQuery(Struct, frozen=True, kw_only=True):
    """`group`: of GROUPS. `since`, `until`: days such as 2026-11-29, both inclusive."""

    group: tuple[str, ...] = ("day",)
    user_id: str | None = None
    agent: str | None = None
    model: str | None = None
    since: str | None = None
    until: str | None = None


class UsageRow(Struct, frozen=True, kw_only=True):
    """The usage of a group of runs. `cost`: in nano units. None: the report is not grouped by this field.

    `unpriced_calls`: calls of models without a price, which cost nothing here.
    """

    day: str | None = None
    user_id: str | None = None
    agent: str | None = None
    model: str | None = None
    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    stopped: int = 0
    incomplete: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    first_token_ms: int | None = None  # on average
    duration_ms: int = 0
    cost: int = 0
    currency: str = ""
    unpriced_calls: int = 0


def report_usage(connection: Connection, query: UsageQuery) -> list[UsageRow]:
    """The sums of each group, in the order of its columns."""
    if not query.group or len({*query.group}) < len(query.group) or not {*query.group} <= {*GROUPS}:
        raise InvalidQuery(f"group must have some of {', '.join(GROUPS)}, each once")
    tables = tables_of(connection, UsageProjection())
    totals, days = tables["usage"], tables["usage_days"]
    names = [GROUP_COLUMNS[name] for name in query.group]
    of_models = "model" in names or query.model is not None
    counted = RUN_COUNTS if of_models else ()
    sums = [func.sum(totals.c[name]) for name in (*counted, *CALL_SUMS, "cost")]
    currency = func.nullif(totals.c.currency, "", type_=Name(3))
    priced = (func.min(currency, type_=Name(3)), func.max(currency, type_=Name(3)))
    unpriced = func.sum(case((totals.c.currency == "", totals.c.calls), else_=0))
    filters = {"user_id": query.user_id, "agent": query.agent, "model": query.model}
    summed_up = (
        select(*(totals.c[name] for name in names), *sums, *priced, unpriced)
        .where(*in_days(totals, query), *equal(totals, **filters))
        .group_by(*(totals.c[name] for name in names))
        .order_by(*(totals.c[name] for name in names))
    )
    rows = connection.execute(bounded(summed_up)).all()
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key, values = tuple(row[: len(names)]), list(row[len(names) :])
        *summed, low, high, unknown = values
        if low != high:
            raise InvalidQuery("the costs are in two currencies: runstore projections rebuild usage")
        fields = dict(zip((*counted, *CALL_SUMS, "cost"), map(int, summed), strict=True))
        found[key] = fields | {"currency": low or "", "unpriced_calls": int(unknown)}
    if not of_models:
        _count_runs(connection, days, query, names, found)
    check_rows(len(found))
    return [_usage_row(names, key, fields) for key, fields in sorted(found.items())]


def _count_runs(
    connection: Connection,
    days: Table,
    query: UsageQuery,
    names: Sequence[str],
    found: dict[tuple[str, ...], dict[str, Any]],
) -> None:
    """Add the numbers of runs: in the rows of models, a run counts once for each of its models."""
    columns = [days.c[name] for name in names]
    counted = (
        select(*columns, *(func.sum(days.c[name]) for name in RUN_COUNTS))
        .where(*in_days(days, query), *equal(days, user_id=query.user_id, agent=query.agent))
        .group_by(*columns)
    )
    for row in connection.execute(bounded(counted)):
        key, sums = tuple(row[: len(names)]), map(int, row[len(names) :])
        found.setdefault(key, {}).update(zip(RUN_COUNTS, sums, strict=True))


def _usage_row(names: Sequence[str], key: tuple[str, ...], fields: dict[str, Any]) -> UsageRow:
    fields = dict(fields)
    known, total = fields.pop("first_tokens", 0), fields.pop("first_token_ms", 0)
    mean = round(total / known) if known else None
    grouped: dict[str, Any] = dict(zip(names, key, strict=True))
    return UsageRow(**grouped, **fields, first_token_ms=mean)
