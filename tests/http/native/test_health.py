"""`/healthz` and `/readyz`."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from runstore.core.errors import LogUnavailable
from runstore.core.ids import new_run_id
from runstore.database.database import Database
from runstore.eventlog.sql import SqlEventLog
from runstore.mount import MountedApp
from tests.kit.database import make_database


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{make_database(tmp_path / 'runstore.db')}"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_server_that_works_says_so(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}


async def test_an_outage_is_reported_without_the_database_and_its_error(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To strangers too: `/readyz` asks for no login, and a login is looked for in the database."""
    app = MountedApp(url)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    said = "database postgresql+psycopg://me:***@10.0.0.7/runs: password authentication failed for user 'me'"
    async with app.open(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:

        async def refuse(*arguments: Any) -> Any:
            raise LogUnavailable(said)

        monkeypatch.setattr(Database, "query", refuse)
        monkeypatch.setattr(SqlEventLog, "unavailable", LogUnavailable(said))
        for path in ("/readyz", "/runs", "/v1/models", f"/runs/{new_run_id()}"):
            answer = await client.get(path)
            for part in ("postgresql", "10.0.0.7", "me", "password"):
                assert part not in answer.text.replace("name", "").replace("message", ""), path
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
