"""The benchmarks run, and their page compares as it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.page import GROUPS
from benchmarks.page.figure import Aim, Figure
from benchmarks.scaling.costs import Cost, Costs, expected
from benchmarks.scaling.simulation import fleet_for, simulate
from runstore.feed.redis.topology import CLUSTER_LANES


@pytest.mark.parametrize(
    ("aim", "shown", "met"),
    [
        (Aim(least=0.5), "ratio ≥ 0.5", "yes"),
        (Aim(least=0.6), "ratio ≥ 0.6", "no"),
        (Aim(most=11, of="value"), "value ≤ 11", "yes"),
        (Aim(most=9, of="value"), "value ≤ 9", "no"),
        (Aim(most=-10, of="difference"), "difference ≤ -10", "yes"),
    ],
)
def test_a_figure_shows_the_median_of_the_rounds_ratios_and_whether_its_aim_is_met(
    aim: Aim, shown: str, met: str
) -> None:
    row = Figure("what", "peer", "ms", aim, [10, 12, 6], [20, 20, 20], [0.2, 0.456]).row()
    assert row == ("what", "10 ms", "peer", "20 ms", "0.50", "0.30 to 0.60", shown, met, "46%")


COST = Cost(worker=20, api=10, database=10, redis=1)
COSTS = Costs(
    token=COST, full=COST, thinner=COST * 0.1, reader=COST, run=COST * 100, rival=COST, replayed=COST,
    client_us=1, worker_per_s=20_000,
)  # fmt: skip


def test_workers_wait_side_by_side_until_the_cores_are_busy() -> None:
    rates = [expected(COSTS, count, cores=4) for count in (1, 2, 4, 8)]
    assert rates[:2] == [(20_000, "workers wait"), (40_000, "workers wait")]
    assert [limit for _, limit in rates[2:]] == ["cores"] * 2
    assert rates[3] < rates[2] < (4e6 / COST.total, "cores")


def test_ten_times_the_runs_need_ten_times_the_processes() -> None:
    few, many = fleet_for(COSTS, 20_000), fleet_for(COSTS, 200_000)
    assert few.databases == 1
    assert many.workers == pytest.approx(10 * few.workers, rel=0.1)
    assert many.apis == pytest.approx(10 * few.apis, rel=0.1)
    assert many.databases * many.database_cores == pytest.approx(10 * few.database_cores, rel=0.1)


def test_a_planned_fleet_keeps_up_and_one_with_half_the_database_does_not() -> None:
    fleet = fleet_for(COSTS, 20_000)
    planned = simulate(COSTS, fleet, 0.5)
    assert planned.busiest[1] < 0.9
    assert planned.p99_ms < 100
    halved = simulate(COSTS, replace(fleet, database_cores=fleet.database_cores // 2), 0.5)
    assert halved.busiest[0] == "database"
    assert halved.busiest[1] > 0.95
    assert halved.p99_ms > 2 * planned.p99_ms


def test_a_redis_has_no_more_nodes_than_lanes_and_no_database_more_workers_than_may_rival() -> None:
    assert fleet_for(COSTS, 20_000).redis_nodes < CLUSTER_LANES
    for costs in (replace(COSTS, token=COST * 10), replace(COSTS, rival=COST * 50)):
        fleet = fleet_for(costs, 20_000)
        assert fleet.databases > 1
        assert fleet.redis_nodes <= CLUSTER_LANES
        assert simulate(costs, fleet, 0.5).busiest[1] < 0.9


@pytest.mark.slow
def test_the_page_has_all_its_figures(tmp_path: Path) -> None:
    found = tmp_path / "page.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", found]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    groups = json.loads(found.read_text())["page"]
    assert {group["title"] for group in groups} == GROUPS.keys() - {"Replicas"}  # which need servers
    figures = [figure for group in groups for figure in group["values"]]
    assert len(figures) == 20
    used = [figure for figure in figures if not figure["what"].startswith("CPU of")]  # of idle readers: none
    assert all(value > 0 for figure in used for value in figure["ours"] + figure["theirs"])
    assert all(group["title"] in done.stdout for group in groups)
