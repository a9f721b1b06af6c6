"""The list of workers, from the server and, by the command line, from the database."""

import json
import socket

from tests.kit.command_line import call_command
from tests.kit.server import ServerProcess


def test_the_server_is_among_the_workers_with_the_runs_that_it_has(
    server: ServerProcess, silent_run: str
) -> None:
    (worker,) = server.http.get("/workers").json()["data"]
    assert (worker["host"], worker["pid"], worker["capacity"]) == (socket.gethostname(), server.pid, 1_000)
    before = worker["runs"]
    assert before >= 1
    assert worker["started_at"].endswith("Z")
    assert worker["heartbeat_at"] is None  # it holds a lock
    server.stop_run(silent_run)
    (worker,) = server.http.get("/workers").json()["data"]
    assert worker["runs"] < before


def test_the_command_line_lists_the_same_workers(server: ServerProcess) -> None:
    (shown,) = server.http.get("/workers").json()["data"]
    database = f"--database-url=sqlite:///{server.database}"
    listed = call_command("workers", "--json", database, folder=server.folder)
    assert json.loads(listed.stdout)["worker_id"] == shown["worker_id"]
    table = call_command("workers", database, folder=server.folder).stdout
    assert shown["worker_id"] in table
    assert table.split()[:3] == ["WORKER", "HOST", "PID"]


def test_an_unknown_parameter_is_refused(server: ServerProcess) -> None:
    answer = server.http.get("/workers", params={"all": "1"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unknown_parameter"
