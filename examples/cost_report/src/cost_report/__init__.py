"""What each user's runs cost, day by day: a projection for runstore, and a report of it.

cost-report sqlite:///runstore.db --input 3 --output 15
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)

import runstore
from runstore import EventFilter, Projection, RecordedEvent, decode


class Costs(Projection):
    """The tokens of each run. The report sums them, so that a purge can replace what one run contributed."""

    name = "costs"
    reads = EventFilter(types=frozenset({"lifecycle.queued", "llm.usage", "run.purged"}))
    tables = (
        Table(
            "costs",
            MetaData(),
            Column("run_id", String(36), primary_key=True),
            Column("day", String(10), nullable=False),
            Column("user_id", String(255), nullable=False),
            Column("input_tokens", BigInteger, nullable=False),
            Column("output_tokens", BigInteger, nullable=False),
        ),
    )

    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        (table,) = self.tables
        for event in events:
            this_run = table.c.run_id == event.run_id
            data: Any = decode(event.type, event.version, event.data)
            if event.type == "lifecycle.queued":
                connection.execute(insert(table).values(_row(event.run_id, event.at, data.user_id, {})))
            elif event.type == "llm.usage":
                more = {
                    "input_tokens": table.c.input_tokens + data.input_tokens,
                    "output_tokens": table.c.output_tokens + data.output_tokens,
                }
                connection.execute(update(table).where(this_run).values(more))
            elif event.type == "run.purged":  # all other events of the run are gone
                connection.execute(delete(table).where(this_run))
                row = _row(event.run_id, data.created_at, data.user_id, data.usage)
                connection.execute(insert(table).values(row))


def report(connection: Connection, tables: Any) -> list[Any]:
    """A row for each day and user: day, user, runs, input tokens, output tokens."""
    costs = tables["costs"].c
    sums = (func.count(), func.sum(costs.input_tokens), func.sum(costs.output_tokens))
    query = select(costs.day, costs.user_id, *sums).group_by(costs.day, costs.user_id)
    return list(connection.execute(query.order_by(costs.day, costs.user_id)))


def main() -> None:
    parser = argparse.ArgumentParser(description="What each user's runs cost, day by day.")
    parser.add_argument("url", help="the database, such as sqlite:///runstore.db")
    parser.add_argument("--input", type=float, default=0, help="price of a million input tokens")
    parser.add_argument("--output", type=float, default=0, help="price of a million output tokens")
    options = parser.parse_args()
    with runstore.open_projections(options.url) as projections:
        projections.run(["costs"])  # in case no server keeps it up to date
        for day, user, runs, inputs, outputs in projections.read("costs", report):
            cost = (int(inputs) * options.input + int(outputs) * options.output) / 1_000_000
            print(f"{day}  {user:<20} {runs:>6} runs {cost:>12.4f}")


def _row(run_id: str, at: int, user_id: str, usage: dict[str, int]) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "day": datetime.fromtimestamp(at / 1_000, UTC).date().isoformat(),
        "user_id": user_id,
        "input_tokens": usage.get("input_tokens", 0),
        "output_tokens": usage.get("output_tokens", 0),
    }
