"""A worker works with every setting in the file that it shares with replicas."""

from pathlib import Path

from tests.kit.cluster import cluster
from tests.kit.database import make_database

CONFIG = """
[server]
worker = false

[agents.quick]
model = "scripted"
"""


def test_with_worker_false_for_all_the_replica_runs_nothing_and_the_worker_everything(tmp_path: Path) -> None:
    url = f"sqlite:///{make_database(tmp_path / 'runstore.db')}"
    with cluster(tmp_path, url, servers=1, workers=1, config=CONFIG) as made:
        (server,), (worker,) = made.servers, made.workers
        assert server.ended(server.begin("quick"))["status"] == "success"
        listed = server.http.get("/workers").json()["data"]
        assert [each["worker_id"] for each in listed] == [worker.worker_id]
