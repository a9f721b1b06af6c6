"""Rules that hold for all servers of a database, asked of two of them at the same moment, again and again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.kit.cluster import Cluster, cluster
from tests.kit.server import SILENT_AGENT
from tests.servers.databases import KINDS, empty_database
from tests.soak import SOAK

pytestmark = pytest.mark.slow

ROUNDS = 4 * SOAK
RUNS_PER_USER = 8
GRACE_S = 2
CONFIG = f"""
[server]
heartbeat_s = 0.2
cancel_grace_s = {GRACE_S}

[limits]
runs_per_user = {RUNS_PER_USER}

[agents.alone]
factory = "agents:alone"

[agents.brief]
model = "scripted"
tokens = 3

[agents.silent]
factory = "agents:silent"
"""


AGENTS = (
    SILENT_AGENT
    + """
from pathlib import Path

def tell(word):
    with Path(__file__).with_name("told").open("a") as told:
        told.write(word)

async def alone(input):
    tell("begins\\n")
    await asyncio.sleep(0.03)
    yield "done"
    tell("ends\\n")
"""
)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("replicas")
    with (
        empty_database(request.param, folder) as url,
        cluster(folder, url, config=CONFIG, agents=AGENTS) as made,
    ):
        yield made


@pytest.fixture
async def replicas(made: Cluster) -> AsyncIterator[list[httpx.AsyncClient]]:
    clients = [httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) for url in made.urls]
    yield clients
    for client in clients:
        await client.aclose()


async def start(client: httpx.AsyncClient, agent: str, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(f"/agents/{agent}/start", json={"input": "hi", **body}, headers=headers)


async def start_everywhere(
    replicas: list[httpx.AsyncClient], agent: str, **body: Any
) -> list[httpx.Response]:
    """Twice at each server, all at once."""
    return await asyncio.gather(*(start(client, agent, **body) for client in 2 * replicas))


async def ended(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    record: dict[str, Any] = (await client.get(f"/runs/{run_id}", params={"wait": 20})).json()
    assert record["completed_at"], record
    return record


async def test_one_run_of_a_session_is_active_at_a_time(
    made: Cluster, replicas: list[httpx.AsyncClient]
) -> None:
    """The agents check it: when one begins, no other agent of the session is at work."""
    for number in range(ROUNDS):
        answers = await start_everywhere(replicas, "alone", session_id=f"enqueue-{number}")
        for answer in answers:
            assert (await ended(replicas[0], answer.json()["run_id"]))["status"] == "success"
    told = (made.folder / "told").read_text().split()
    assert told == ["begins", "ends"] * 4 * ROUNDS


async def test_one_of_starts_that_interrupt_each_other_is_left(replicas: list[httpx.AsyncClient]) -> None:
    for number in range(ROUNDS):
        body = {"session_id": f"interrupt-{number}", "multitask_strategy": "interrupt"}
        answers = await start_everywhere(replicas, "silent", **body)
        assert [answer.status_code for answer in answers] == [202] * 4, [answer.text for answer in answers]
        runs = [answer.json()["run_id"] for answer in answers]
        cancelled = [
            run_id for run_id in runs if (await replicas[0].get(f"/runs/{run_id}")).json()["cancel_requested"]
        ]
        assert len(cancelled) == len(runs) - 1, "exactly one was not asked to stop"
        (left,) = set(runs) - set(cancelled)
        for run_id in cancelled:
            record = await ended(replicas[1], run_id)
            assert record["status"] == "stopped", record
        assert (await replicas[1].post(f"/runs/{left}/stop")).status_code == 202
        await ended(replicas[0], left)


async def test_one_of_starts_that_would_not_wait_is_accepted(replicas: list[httpx.AsyncClient]) -> None:
    for number in range(ROUNDS):
        body = {"session_id": f"reject-{number}", "multitask_strategy": "reject"}
        answers = await start_everywhere(replicas, "silent", **body)
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
        (run_id,) = [answer.json()["run_id"] for answer in answers if answer.status_code == 202]
        assert (await replicas[number % 2].post(f"/runs/{run_id}/stop")).status_code == 202
        await ended(replicas[0], run_id)


async def test_one_idempotency_key_is_one_run_on_every_replica(replicas: list[httpx.AsyncClient]) -> None:
    for number in range(ROUNDS):
        answers = await asyncio.gather(
            *(start(client, "brief", key=f"key-{number}") for client in 2 * replicas)
        )
        assert len({answer.json()["run_id"] for answer in answers}) == 1, [a.text for a in answers]
        other = await start(replicas[0], "brief", key=f"key-{number}", metadata={"other": True})
        assert other.json()["error"]["code"] == "idempotency_conflict", other.text
        await ended(replicas[1], answers[0].json()["run_id"])


async def test_a_user_has_no_more_runs_than_allowed_on_all_replicas_together(
    replicas: list[httpx.AsyncClient],
) -> None:
    answers = await asyncio.gather(*(start(replicas[n % 2], "silent") for n in range(3 * RUNS_PER_USER)))
    runs = [answer.json()["run_id"] for answer in answers if answer.status_code == 202]
    assert len(runs) == RUNS_PER_USER
    assert {answer.status_code for answer in answers} == {202, 429}
    for number, run_id in enumerate(runs):
        assert (await replicas[number % 2].post(f"/runs/{run_id}/stop")).status_code == 202
    for run_id in runs:
        record = await ended(replicas[0], run_id)
        assert (record["status"], record["forced"]) == ("stopped", False), "by the worker that has it"
