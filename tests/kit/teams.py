"""Hierarchies for tests, and what a client of the executor surface does with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.kit.frames import Frame, read_frames
from tests.kit.server import DEADLINE_S, until

EXECUTOR = "/api/executor/v1"
ALONE: dict[str, Any] = {  # one worker
    "name": "alone",
    "global_prompt": "You are a helpful assistant",
    "teams": [
        {
            "name": "Team",
            "supervisor_prompt": "Delegate to workers",
            "workers": [{"name": "Worker", "role": "assistant", "system_prompt": "Answer."}],
        }
    ],
}


def hierarchy(**teams: dict[str, list[str]]) -> dict[str, Any]:
    """Of a team's name → its workers' names → their tools."""
    return {
        "name": "office",
        "global_prompt": "Delegate to teams",
        "teams": [
            {
                "name": team,
                "supervisor_prompt": "Delegate to workers",
                "workers": [
                    {"name": worker, "system_prompt": "Answer.", "tools": tools}
                    for worker, tools in workers.items()
                ],
            }
            for team, workers in teams.items()
        ],
    }


class Executor:
    """A client of the executor surface."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def ask(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.http.post(f"{EXECUTOR}/{path}", json={} if body is None else body, **options)

    def data(self, path: str, body: Any = None, **options: Any) -> Any:
        """The data of a successful answer."""
        answer = self.ask(path, body, **options)
        assert answer.is_success, answer.text
        assert answer.json().keys() == {"success", "data"}
        assert answer.json()["success"] is True
        return answer.json()["data"]

    def create(self, body: dict[str, Any] = ALONE) -> str:
        hierarchy_id: str = self.data("hierarchies/create", body)["hierarchy_id"]
        return hierarchy_id

    def start(self, hierarchy_id: str, task: str = "What is 2+2?", **body: Any) -> str:
        run_id: str = self.data("runs/start", {"hierarchy_id": hierarchy_id, "task": task, **body})["run_id"]
        return run_id

    @contextmanager
    def stream(self, run_id: str, after: int = 0, **more: Any) -> Iterator[Iterator[Frame]]:
        body = {"run_id": run_id, "after": after, **more}
        with self.http.stream("POST", f"{EXECUTOR}/runs/stream", json=body) as answer:
            assert answer.status_code in (200, 204), answer.read()
            yield read_frames(answer.iter_raw())

    def frames(self, run_id: str, after: int = 0) -> list[Frame]:
        """The run's stream to its end."""
        with self.stream(run_id, after) as frames:
            return list(frames)

    def get(self, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self.data("runs/get", {"run_id": run_id})
        return run

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run once it has ended."""
        until(lambda: self.get(run_id)["completed_at"] is not None, "the run has ended", 2 * DEADLINE_S)
        return self.get(run_id)
