"""Usage and cost: of each run, and in total per day, user, agent and model.

A run counts on the day (UTC) when it was queued, at the prices of that day. Totals are sums of what each run
contributed, so that they do not depend on the order of events, and a purge can replace a contribution.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, ClassVar

import msgspec
from msgspec import Struct, field
from msgspec.structs import asdict
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    Row,
    SmallInteger,
    Table,
    delete,
    select,
)
from typing_extensions import override

from runstore.core.codec import RecordedEvent
from runstore.core.depth import decoded
from runstore.core.events import (
    ENDINGS,
    CancelRequested,
    Failed,
    ModelUsage,
    Outcome,
    Purged,
    Queued,
    Started,
    Usage,
)
from runstore.core.outcomes import OUTCOME_COLUMNS, RUN_COUNTS, outcome_of
from runstore.core.ports import EventFilter
from runstore.core.queued import read_queued
from runstore.core.times import day_of
from runstore.core.usage import CALL_SUMS, MAX_MODEL, SUMS, RunUsage, bounded, counted
from runstore.database.columns import Name
from runstore.database.keys import in_pieces, rows_with
from runstore.database.upserts import add_rows, delete_rows, put_rows
from runstore.database.views import write_views
from runstore.projections.prices import Prices
from runstore.projections.projection import Projection, Slot

MODEL_SUMS = (*RUN_COUNTS, *CALL_SUMS, "cost")  # summed columns of the table `usage`
DAY_SUMS = (*RUN_COUNTS, "duration_ms")  # summed columns of the table `usage_days`

_tables = MetaData()


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


TOTALS = Table(
    "usage",
    _tables,
    Column("day", Name(10), primary_key=True),
    Column("user_id", Name(255), primary_key=True),
    Column("agent", Name(255), primary_key=True),
    Column("model", Name(MAX_MODEL), primary_key=True),
    Column("currency", Name(3), primary_key=True),
    *map(_count, MODEL_SUMS),
)
DAYS = Table(
    "usage_days",
    _tables,
    Column("day", Name(10), primary_key=True),
    Column("user_id", Name(255), primary_key=True),
    Column("agent", Name(255), primary_key=True),
    *map(_count, DAY_SUMS),
)
RUNS = Table(
    "usage_runs",
    _tables,
    Column("run_id", Name(36), primary_key=True),
    Column("day", Name(10), nullable=False),
    Column("user_id", Name(255), nullable=False),
    Column("agent", Name(255), nullable=False),
    Column("status", Name(16), nullable=False),
    Column("error_code", Name(128)),
    Column("stopped_by", Name(255)),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("duration_ms", BigInteger, nullable=False),
    Column("incomplete", SmallInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("currency", Name(3), nullable=False),
    Column("unpriced", SmallInteger, nullable=False),
    Index("ix_usage_runs_cost", "cost", "run_id"),
    Index("ix_usage_runs_tokens", "tokens", "run_id"),
    Index("ix_usage_runs_duration_ms", "duration_ms", "run_id"),
)
MODELS = Table(
    "usage_models",
    _tables,
    Column("run_id", Name(36), primary_key=True),
    Column("model", Name(MAX_MODEL), primary_key=True),
    *map(_count, SUMS),
    Column("cost", BigInteger, nullable=False),
    Column("currency", Name(3), nullable=False),
)


class UsageProjection(Projection):
    """The projection `usage`."""

    name: ClassVar[str] = "usage"
    reads: ClassVar[EventFilter | None] = EventFilter(
        types=frozenset({Queued.type, Started.type, Usage.type, CancelRequested.type, Purged.type, *ENDINGS})
    )
    tables: Sequence[Table] = (TOTALS, DAYS, RUNS, MODELS)

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = prices or Prices()
        self.fingerprint = self._prices.fingerprint

    @override
    def publish(self, connection: Connection, slot: Slot | None) -> None:
        write_views(connection, slot)

    @override
    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        totals, days, runs, models = self.tables
        begun = {event.run_id for event in events if event.type == Queued.type}
        known = _read_runs(connection, runs, models, sorted({e.run_id for e in events} - begun))
        changes = _Changes()
        for run in known.values():
            changes.count(run, _priced(run, self._prices), -1)
        purged: set[str] = set()
        for event in events:
            if event.type == Queued.type:
                known[event.run_id] = _queued(event)
            elif event.type == Purged.type:
                known[event.run_id] = _purged(event)
                purged.add(event.run_id)
            elif event.run_id in known:  # others follow as a `run.purged`
                known[event.run_id].add(event)
        run_rows: list[dict[str, Any]] = []
        model_rows: list[dict[str, Any]] = []
        for run in known.values():
            priced = _priced(run, self._prices)
            changes.count(run, priced, 1)
            run_rows.append(_run_row(run, priced))
            model_rows += _model_rows(run, priced)
        for some in in_pieces(sorted(purged)):
            connection.execute(delete(models).where(models.c.run_id.in_(some)))
        put_rows(connection, runs, run_rows)
        put_rows(connection, models, model_rows)
        changes.write(connection, totals, days)


class _Run(Struct):
    """The state of one run."""

    run_id: str
    day: str
    user_id: str
    agent: str
    created_at: int
    status: str = "open"
    error_code: str | None = None
    stopped_by: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    usage: RunUsage = field(default_factory=RunUsage)

    @property
    def duration_ms(self) -> int:
        if self.ended_at is None:
            return 0
        began = self.created_at if self.started_at is None else self.started_at
        return max(0, self.ended_at - began)

    def add(self, event: RecordedEvent) -> None:
        self.usage.add(event)
        if event.type == Started.type:
            self.started_at = event.at if self.started_at is None else self.started_at
        elif event.type == CancelRequested.type:
            self.stopped_by = self.stopped_by or bounded(decoded(_read_by, event.data).by, 255)
        elif event.ends:
            self.status = outcome_of(event.type)
            self.ended_at = event.at
            if event.type == Failed.type:
                self.error_code = bounded(decoded(_read_failed, event.data).code, 128)


class _By(Struct, frozen=True, gc=False):
    by: str = ""


class _Failed(Struct, frozen=True, gc=False):
    code: str


class _Purged(Struct, frozen=True):
    agent: str
    user_id: str
    status: Outcome
    created_at: int
    completed_at: int
    started_at: int | None = None
    error_code: str | None = None
    stopped_by: str | None = None
    usage: dict[str, int] = {}
    models: list[ModelUsage] = []
    incomplete: bool = False


_read_by = msgspec.json.Decoder(_By).decode
_read_failed = msgspec.json.Decoder(_Failed).decode
_read_purged = msgspec.json.Decoder(_Purged).decode


def _queued(event: RecordedEvent) -> _Run:
    queued = read_queued(event)
    return _Run(event.run_id, day_of(event.at), queued.user_id, queued.agent, event.at)


def _purged(event: RecordedEvent) -> _Run:
    """A run from its summary alone. One of an older release has its usage without the models."""
    purged = _read_purged(event.data)
    models = purged.models
    if not models and purged.usage:
        inputs, outputs = (counted(purged.usage.get(f"{name}_tokens", 0)) for name in ("input", "output"))
        models = [ModelUsage(calls=1, input_tokens=inputs, output_tokens=outputs)]
    return _Run(
        event.run_id, day_of(purged.created_at), purged.user_id, purged.agent, purged.created_at,
        purged.status, purged.error_code, purged.stopped_by, purged.started_at, purged.completed_at,
        RunUsage({used.model: used for used in models}, purged.incomplete),
    )  # fmt: skip


class _Changes:
    """How the totals change."""

    def __init__(self) -> None:
        self._models: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * len(MODEL_SUMS))
        self._days: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * len(DAY_SUMS))

    def count(self, run: _Run, priced: Sequence["_Priced"], sign: int) -> None:
        """Count a run in; with `sign` -1 out."""
        outcomes = [int(run.status == status) for status in OUTCOME_COLUMNS]
        counts = [1, *outcomes, int(run.usage.incomplete)]
        key = (run.day, run.user_id, run.agent)
        _add(self._days[key], [*counts, run.duration_ms], sign)
        for used, cost, currency in priced:
            _add(self._models[*key, used.model, currency], [*counts, *_call_sums(used), cost], sign)

    def write(self, connection: Connection, totals: Table, days: Table) -> None:
        for table, names, changes in (
            (totals, MODEL_SUMS, self._models),
            (days, DAY_SUMS, self._days),
        ):
            keys = table.primary_key.columns.keys()
            rows: list[dict[str, Any]] = [
                dict(zip((*keys, *names), (*key, *sums), strict=True))
                for key, sums in sorted(changes.items())
                if any(sums)
            ]
            add_rows(connection, table, rows, names)
            delete_rows(connection, table, [row for row in rows if row["runs"] < 0], runs=0)


def _add(sums: list[int], more: Sequence[int], sign: int) -> None:
    sums[:] = [sum + sign * value for sum, value in zip(sums, more, strict=True)]


_Priced = tuple[ModelUsage, int, str]
_call_sums = attrgetter(*CALL_SUMS)


def _priced(run: _Run, prices: Prices) -> list[_Priced]:
    """A run's usage of each model, with its cost in nano units, and their currency: see `_cost`."""
    return [(used, *_cost(prices, used, run.day)) for used in run.usage.models.values()]


def _cost(prices: Prices, used: ModelUsage, day: str) -> tuple[int, str]:
    """The cost in nano units and its currency; an empty currency if the price is not known."""
    price = prices.of(used.model, day)
    return (0, "") if price is None else (price.cost(used), price.currency)


def _run_row(run: _Run, priced: Sequence[_Priced]) -> dict[str, Any]:
    return {
        "run_id": run.run_id, "day": run.day, "user_id": run.user_id, "agent": run.agent,
        "status": run.status, "error_code": run.error_code, "stopped_by": run.stopped_by,
        "created_at": run.created_at, "started_at": run.started_at, "ended_at": run.ended_at,
        "duration_ms": run.duration_ms, "incomplete": int(run.usage.incomplete),
        "calls": sum([used.calls for used, _, _ in priced]),
        "tokens": sum([used.input_tokens + used.output_tokens for used, _, _ in priced]),
        "cost": sum([cost for _, cost, _ in priced]),
        "currency": max([currency for _, _, currency in priced], default=""),
        "unpriced": int(any(not currency for _, _, currency in priced)),
    }  # fmt: skip


def _model_rows(run: _Run, priced: Sequence[_Priced]) -> Iterable[dict[str, Any]]:
    for used, cost, currency in priced:
        yield {"run_id": run.run_id, **asdict(used), "cost": cost, "currency": currency}


def _read_runs(connection: Connection, runs: Table, models: Table, run_ids: list[str]) -> dict[str, _Run]:
    known = {row.run_id: _run(row) for row in rows_with(connection, select(runs), runs.c.run_id, run_ids)}
    for row in rows_with(connection, select(models), models.c.run_id, run_ids):
        used = ModelUsage(row.model, *(getattr(row, name) for name in SUMS))
        known[row.run_id].usage.models[row.model] = used
    return known


def _run(row: Row[Any]) -> _Run:
    return _Run(
        row.run_id, row.day, row.user_id, row.agent, row.created_at, row.status, row.error_code,
        row.stopped_by, row.started_at, row.ended_at, RunUsage(incomplete=bool(row.incomplete)),
    )  # fmt: skip
