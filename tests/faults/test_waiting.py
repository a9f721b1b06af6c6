"""Runs that ask, while their processes are killed and replaced: nothing is asked or answered twice (G15)."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.kit.cluster import Cluster, cluster
from tests.kit.server import ServerProcess, until
from tests.kit.slow import slow
from tests.servers.databases import KINDS, empty_database
from tests.soak import SOAK

RUNS = 6  # that ask at once
LEASE_S = 1.0
DRAIN_S = 1.0
CONFIG = """
[server]
heartbeat_s = 0.2

[agents.asker]
model = "scripted"
tools = ["agents:order"]
"""
AGENTS = """
import asyncio
from pathlib import Path

from strands import ToolContext, tool

HERE = Path(__file__).parent

async def hold(name):
    with (HERE / "held").open("a") as held:
        held.write(name + "\\n")
    while (HERE / name).exists():
        await asyncio.sleep(0.01)

@tool(context=True)
async def order(word: str, tool_context: ToolContext) -> str:
    '''Order something.

    Args:
        word: What.
    '''
    await hold("before")
    size = tool_context.interrupt("size", reason="Which size?")
    await hold("after")
    return f"in {size}"
"""


@pytest.fixture(params=["sqlite", *map(slow, KINDS)])
def made(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Cluster]:
    with (
        empty_database(request.param, tmp_path) as url,
        cluster(tmp_path, url, config=CONFIG, agents=AGENTS, lease_s=LEASE_S, drain_s=DRAIN_S) as made,
    ):
        yield made


def call(server: ServerProcess, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask a server, also one that is just being replaced."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        with suppress(httpx.TransportError):
            answers.append(server.http.request(method, path, **options))
        return bool(answers) and answers[-1].status_code != 503

    until(answered, f"{method} {path} is answered")
    return answers[-1]


def begin(server: ServerProcess) -> list[str]:
    started = [call(server, "POST", "/agents/asker/start", json={"input": "shirts"}) for _ in range(RUNS)]
    return [each.json()["run_id"] for each in started]


def status(server: ServerProcess, run_id: str) -> str:
    return str(call(server, "GET", f"/runs/{run_id}").json()["status"])


def wait_until_all(server: ServerProcess, runs: list[str], *wanted: str) -> None:
    until(lambda: {status(server, run_id) for run_id in runs} <= set(wanted), f"all runs are {wanted}")


def held(made: Cluster, name: str) -> int:
    """How many tools have been at this point."""
    path = made.folder / "held"
    return path.read_text().split().count(name) if path.exists() else 0


def kill(made: Cluster, kind: str) -> None:
    for process in made.workers if kind == "workers" else made.processes:
        process.kill()
    made.start_all()


def replace_all(made: Cluster) -> None:
    """A deploy: each process is stopped and replaced, one after the other."""
    for process in made.processes:
        process.terminate()
        assert process.wait() == 0
        made.start_all()


def answer_in_all_ways(made: Cluster, runs: list[str]) -> dict[str, str]:
    """Answer each run through each server at once, each answer twice; returns the answer that counts."""

    def answer(server: ServerProcess, run_id: str, size: str) -> int:
        found = call(server, "GET", f"/runs/{run_id}/inputs").json()["data"]
        place = f"/runs/{run_id}/inputs/{found[-1]['request_id']}"
        return call(server, "POST", place, json={"answer": size}).status_code

    counts: dict[str, str] = {}
    with ThreadPoolExecutor(8) as threads:
        given = {
            (run_id, size): [threads.submit(answer, server, run_id, size) for _ in range(2)]
            for run_id in runs
            for server, size in zip(made.servers, "SM", strict=False)
        }
        for (run_id, size), tries in given.items():
            codes = {each.result() for each in tries}
            assert codes in ({200}, {409}), "the same answer twice is one"
            if codes == {200}:
                assert run_id not in counts, "two answers count"
                counts[run_id] = size
    assert counts.keys() == set(runs)
    return counts


def check(made: Cluster, counts: dict[str, str]) -> None:
    server = made.servers[0]
    wait_until_all(server, [*counts], "success", "error")
    for run_id, size in counts.items():
        events = call(server, "GET", f"/runs/{run_id}/events", params={"limit": 1000}).json()["data"]
        types = Counter(event["type"] for event in events)
        assert (types["input.requested"], types["input.given"]) == (1, 1), run_id
        assert [event["seq"] for event in events] == [*range(1, len(events) + 1)]
        [given] = [event["data"]["answer"] for event in events if event["type"] == "input.given"]
        record = call(server, "GET", f"/runs/{run_id}").json()
        assert (given, record["status"]) == (size, "success"), record
        results = [event["data"]["output"] for event in events if event["type"] == "tool.finished"]
        assert results == [[{"text": f"in {size}"}]]
    assert made.verify() == ""


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["workers", "all"])
def test_answers_that_race_count_once_though_all_are_killed_before_the_runs_go_on(
    made: Cluster, killed: str
) -> None:
    for _ in range(SOAK):
        runs = begin(made.servers[0])
        wait_until_all(made.servers[1], runs, "waiting")
        (made.folder / "after").touch()  # the runs have their answers, and hold still
        before = held(made, "after")
        counts = answer_in_all_ways(made, runs)
        until(lambda before=before: held(made, "after") > before, "a run goes on")
        kill(made, killed)
        (made.folder / "after").unlink()
        check(made, counts)


def test_workers_that_die_while_their_runs_ask_ask_once(made: Cluster) -> None:
    for _ in range(SOAK):
        (made.folder / "before").touch()
        before = held(made, "before")
        runs = begin(made.servers[0])
        until(lambda before=before: held(made, "before") > before, "a run is about to ask")
        kill(made, "workers")
        (made.folder / "before").unlink()  # some ask now, as others are killed
        kill(made, "workers")
        wait_until_all(made.servers[1], runs, "waiting")
        check(made, answer_in_all_ways(made, runs))


@pytest.mark.slow
def test_a_deploy_in_the_middle_changes_nothing(made: Cluster) -> None:
    for _ in range(SOAK):
        runs = begin(made.servers[0])
        wait_until_all(made.servers[1], runs, "waiting")
        replace_all(made)
        assert {status(made.servers[0], run_id) for run_id in runs} == {"waiting"}
        with ThreadPoolExecutor(1) as threads:
            deploy = threads.submit(replace_all, made)
            counts = answer_in_all_ways(made, runs)
            deploy.result()
        check(made, counts)
