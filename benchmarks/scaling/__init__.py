"""What many runs at once need: costs are measured, checked against rates, and put into a simulation."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.options import Options
from benchmarks.report import Report
from benchmarks.scaling.costs import Costs, measure
from benchmarks.scaling.simulation import Fleet, Outcome, fleet_for, simulate

KEPT = Path(__file__).parent / "costs.json"
RUNS = (10_000, 100_000, 1_000_000)  # at once
SIMULATED_S = 3.0


def run(options: Options) -> Iterator[Report]:
    """Measure the costs on a PostgreSQL and a Redis, if both are given; simulate with `costs.json`."""
    if options.database_urls and options.redis_url:
        measured, checks = measure(options.database_urls[0], options.redis_url, quick=options.quick)
        yield _cost_table("Measured costs", measured)
        report = Report(
            "Tokens/s with all processes on this machine",
            (
                "replicas and workers",
                "measured",
                "from the costs",
                "ratio",
                "limit",
                "cores busy",
                "of others",
            ),
            "50 runs at once, as fast as they go. The costs were measured before, with one of each and with "
            "the most. Cores: busy with these processes and the load generator, and with other programs.",
        )
        for check in checks:
            report.add(
                str(check.count), check.measured, check.predicted, f"{check.measured / check.predicted:.2f}",
                check.limit, f"{check.busy:.2f}", f"{check.others:.2f}",
            )  # fmt: skip
        yield report
        if not options.quick:
            KEPT.write_text(json.dumps(msgspec.to_builtins(measured), indent=2) + "\n")
    costs = msgspec.json.decode(KEPT.read_bytes(), type=Costs)
    yield _cost_table("Costs of the simulation", costs)
    yield _simulated(costs, RUNS[:1] if options.quick else RUNS)


def _cost_table(title: str, costs: Costs) -> Report:
    report = Report(
        title,
        ("what", "worker", "API process", "database", "Redis"),
        "CPU in µs. Database: PostgreSQL, all of its processes. For a token the load generator takes "
        f"{costs.client_us:.1f} µs. One worker makes {costs.worker_per_s:,.0f} tokens/s at most.",
    )
    for what, cost in costs.named().items():
        report.add(what, *(f"{us:,.1f}" for us in (cost.worker, cost.api, cost.database, cost.redis)))
    return report


def _simulated(costs: Costs, counts: tuple[int, ...]) -> Report:
    report = Report(
        "Runs at once, at 50 tokens/s, 20 s long, with one reader each",
        ("runs", "tokens/s", "workers", "API processes", "databases", "cores of each", "log of each, MB/s",
         "Redis nodes of each", "busiest", "token to client p50", "p99"),
        "Each process has a core and is busy for 70%. A database has 64 cores at most, and a Redis Cluster "
        "6 nodes at most, as a node has whole lanes. p50 and p99: simulated.",
    )  # fmt: skip
    for count in counts:
        fleet: Fleet = fleet_for(costs, count)
        outcome: Outcome = simulate(costs, fleet, SIMULATED_S)
        name, share = outcome.busiest
        report.add(
            f"{count:,}", fleet.tokens_per_s, fleet.workers, fleet.apis, fleet.databases,
            fleet.database_cores, f"{fleet.log_mb_per_s:,.0f}", fleet.redis_nodes, f"{name} {share:.0%}",
            f"{outcome.p50_ms:.0f} ms", f"{outcome.p99_ms:.0f} ms",
        )  # fmt: skip
    return report
