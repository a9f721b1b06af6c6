"""Usage and cost, compared with a plain fold of the log."""

from collections import Counter
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Table

from runstore.core.codec import decode
from runstore.core.events import (
    Cancelled,
    Completed,
    Failed,
    ModelUsage,
    Purged,
    Queued,
    Started,
    Usage,
)
from runstore.core.usage import MAX_COUNT
from runstore.projections.prices import MAX_COST, MAX_PRICE, NANO, Price, Prices
from runstore.projections.usage import TOTALS, UsageProjection
from tests.projections.conftest import Tables
from tests.projections.history import BEGIN, History
from tests.projections.test_shipped import PRICES


def day(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).date().isoformat()


def by_hand(history: History) -> tuple[dict[Any, Counter[str]], dict[Any, Counter[str]]]:
    """The totals per model, and per day, user and agent: written down run by run."""
    models: dict[Any, Counter[str]] = {}
    days: dict[Any, Counter[str]] = {}
    for run_id in {event.run_id for event in history.appended}:
        calls: dict[str, Counter[str]] = {}
        run: Counter[str] = Counter(runs=1)
        key: Any = ()
        began = 0
        for recorded in (each for each in history.appended if each.run_id == run_id):
            match event := decode(recorded.type, recorded.version, recorded.data):
                case Queued():
                    key, began = (day(recorded.at), event.user_id, event.agent), recorded.at
                case Started():
                    began = recorded.at
                case Usage():
                    call = calls.setdefault(event.model or "", Counter())
                    call["calls"] += 1
                    for name in ("input", "output", "cache_read", "cache_write", "reasoning"):
                        call[f"{name}_tokens"] += getattr(event, f"{name}_tokens")
                    call["first_tokens"] += event.first_token_ms is not None
                    call["first_token_ms"] += event.first_token_ms or 0
                    call["duration_ms"] += event.duration_ms or 0
                    run["incomplete"] |= event.incomplete
                case Completed() | Failed() | Cancelled():
                    name = {"success": "succeeded", "error": "failed", "stopped": "stopped"}[event.status]
                    run[name] += 1
                    run["duration_ms"] += recorded.at - began
                    broke_off = getattr(event, "forced", False) or getattr(event, "code", "") == "worker_lost"
                    run["incomplete"] |= broke_off
        days.setdefault(key, Counter()).update(run)
        for model, call in calls.items():
            if model == "big":  # 1.25 a million, cached 0.125, output 10
                fresh = call["input_tokens"] - call["cache_read_tokens"]
                in_micro = 1250 * fresh + 125 * call["cache_read_tokens"] + 10_000 * call["output_tokens"]
                call["cost"] = in_micro
            counted = {name: run[name] for name in run if name != "duration_ms"}
            currency = "USD" if model == "big" else ""
            models.setdefault((*key, model, currency), Counter()).update(counted)
            models[*key, model, currency].update(call)
    return models, days


def read(tables: Tables, bound: Any, place: int) -> dict[Any, Counter[str]]:
    table: Table = bound.tables[place]
    keys = [column.name for column in table.primary_key.columns]
    rows = [row._asdict() for row in tables.rows(bound, place)]
    return {tuple(row.pop(key) for key in keys): Counter({k: v for k, v in row.items() if v}) for row in rows}


def test_totals_are_what_a_plain_fold_of_the_log_comes_to(tables: Tables) -> None:
    history = History(3).write(70)
    models, days = by_hand(history)
    bound = tables.fill(UsageProjection(PRICES), [history.log])
    assert read(tables, bound, 0) == {key: +sums for key, sums in models.items()}
    assert read(tables, bound, 1) == {key: +sums for key, sums in days.items()}


def test_a_run_has_its_own_sums_and_no_price_is_marked(tables: Tables) -> None:
    history = History()
    history.append("r", Queued(agent="demo", user_id="ann", input="hi"))
    for model in ("big", "unknown"):
        history.append("r", Usage(agent="demo", model=model, input_tokens=1_000_000, output_tokens=1))
    history.append("r", Failed(code="timeout", message=""))
    bound = tables.fill(UsageProjection(PRICES), [history.log])
    (run,) = tables.rows(bound, 2)
    assert (run.cost, run.currency, run.unpriced) == (1_250_000_000 + 10_000, "USD", 1)
    assert (run.tokens, run.calls, run.status, run.error_code) == (2_000_002, 2, "error", "timeout")
    assert (run.created_at, run.duration_ms) == (history.log[0].at, history.log[-1].at - history.log[0].at)


def test_counts_that_no_call_can_have_stop_nothing(tables: Tables) -> None:
    dear = Prices({"dear": [Price(input=MAX_PRICE, output=0)]})
    history = History()
    for run_id in ("r", "s"):
        history.append(run_id, Queued(agent="demo", user_id="ann", input="hi"))
        history.append(run_id, Usage(agent="demo", model="dear", input_tokens=10**30, output_tokens=-1))
    bound = tables.fill(UsageProjection(dear), [history.log])
    (total,) = tables.rows(bound, 0)
    assert (total.input_tokens, total.output_tokens) == (2 * MAX_COUNT, 0)
    assert total.cost == 2 * MAX_COST * NANO


def test_a_run_purged_by_an_older_release_keeps_its_tokens_without_a_model(tables: Tables) -> None:
    history = History()
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    history.append(
        "r",
        Purged(
            by="retention", user_id="ann", agent="demo", status="success", created_at=BEGIN,
            completed_at=BEGIN + 9, counts={}, usage=usage,
        ),
    )  # fmt: skip
    bound = tables.fill(UsageProjection(PRICES), [history.log])
    (total,) = tables.rows(bound, 0)
    assert (total.day, total.model, total.input_tokens, total.output_tokens) == (day(BEGIN), "", 5, 2)
    assert (total.runs, total.succeeded) == (1, 1)


def test_a_price_counts_from_its_day_on() -> None:
    prices = Prices({"m": [Price(input=2, output=0, from_date=date(2026, 2, 1)), Price(input=1, output=0)]})
    costs = []
    for when in ("2026-01-31", "2026-02-01", "2030-01-01"):
        price = prices.of("m", when)
        assert price is not None
        costs.append(price.cost(ModelUsage("m", input_tokens=1_000_000)))
    assert costs == [1_000_000_000, 2_000_000_000, 2_000_000_000]
    assert Prices({"m": [Price(input=2, output=0, from_date=date(2026, 2, 1))]}).of("m", "2026-01-31") is None
    assert prices.of("another", "2026-01-31") is None


def test_a_cost_is_rounded_once_for_a_run() -> None:
    price = Price(input=0.0000004, output=0)  # 0.4 nano units for a thousand tokens
    assert price.cost(ModelUsage(input_tokens=1_000)) == 0
    assert price.cost(ModelUsage(input_tokens=3_000)) == 1


def test_the_fingerprint_is_of_the_prices() -> None:
    one, same, another = (Prices({"m": [Price(input=value, output=0)]}).fingerprint for value in (1, 1.0, 2))
    assert one == same != another
    assert UsageProjection(Prices({"m": [Price(input=1, output=0)]})).fingerprint == one
    assert Prices().fingerprint == ""
    assert TOTALS.name == "usage"
