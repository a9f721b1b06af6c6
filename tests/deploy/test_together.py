"""The commands and the environment of deploy/compose.yaml, as processes of this machine, behind its nginx."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.deploy.files import DEPLOY, compose
from tests.deploy.nginx import nginx
from tests.kit.cluster import WorkerProcess
from tests.kit.frames import joined, read_frames, seqs
from tests.kit.process import RunstoreProcess, run_command
from tests.kit.server import ServerProcess
from tests.servers.databases import empty_database
from tests.servers.shared import shared_redis

SERVICES = compose()["services"]
PROCESSES = [name for name in SERVICES if name.startswith(("serve", "worker"))]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder that they all have, and what differs in their environment: where database and Redis are."""
    config = (DEPLOY / "config/runstore.toml").read_text(encoding="utf-8")
    server = f'[server]\nredis_prefix = "{uuid4()}"\nheartbeat_s = 0.5\n'  # others use this Redis, too
    (tmp_path / "runstore.toml").write_text(f"{config}\n{server}")
    with empty_database("postgresql", tmp_path) as url:
        yield tmp_path, {"RUNSTORE_DATABASE_URL": url, "RUNSTORE_REDIS_URL": shared_redis()}


def process_of(name: str, folder: Path, elsewhere: dict[str, str]) -> RunstoreProcess:
    """A service's process, not started: on a port that is free, with this database."""
    command, *words = SERVICES[name]["command"]
    pairs = [word.removeprefix("--").replace("-", "_").partition("=") for word in words]
    options = {option: value or True for option, _, value in pairs}
    options |= {"port": 0} if "port" in options else {}
    options |= {"database_url": elsewhere["RUNSTORE_DATABASE_URL"]}
    process: RunstoreProcess
    if command == "serve":
        process = ServerProcess(folder, None, None, **options)
    else:
        process = WorkerProcess(folder, **options)
    process.variables = environment_of(name) | elsewhere
    return process


def environment_of(name: str) -> dict[str, str]:
    """A service's, where deploy/.env sets no more than it has to."""
    set_in_file = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    return {key: re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", value) for key, value in set_in_file.items()}


@pytest.mark.slow
def test_the_processes_of_compose_serve_a_run_from_its_start_to_its_end(
    place: tuple[Path, dict[str, str]],
) -> None:
    folder, elsewhere = place
    with ExitStack() as stack:
        processes = {name: process_of(name, *place) for name in PROCESSES}
        for process in processes.values():
            stack.callback(process.close)
        made = run_command("keys", "create", "--user=alice", "--role=admin", folder=folder, **elsewhere)
        for process in processes.values():
            process.launch()
        for process in processes.values():
            process.wait_until_ready()

        replicas = [process.port for process in processes.values() if isinstance(process, ServerProcess)]
        proxy = stack.enter_context(nginx(replicas))
        assert proxy.http.get("/agents").status_code == 401
        proxy.http.headers["Authorization"] = f"Bearer {made.stdout.strip()}"
        answer = proxy.http.post("/agents/demo/start", json={"input": "Count from 1 to 5"})
        assert answer.status_code == 202, answer.text
        run_id = answer.json()["run_id"]
        with proxy.http.stream("GET", f"/runs/{run_id}/stream") as answer:
            live = list(read_frames(answer.iter_raw()))
        assert live[-1].type == "lifecycle.completed"
        assert seqs(live) == list(range(1, len(live) + 1))
        for _ in replicas:
            replayed = proxy.http.get(f"/runs/{run_id}/stream")
            assert joined(read_frames([replayed.content])) == joined(live)
        for process in processes.values():
            process.terminate()
        assert {name: process.wait() for name, process in processes.items()} == dict.fromkeys(PROCESSES, 0)
