"""The size of the database, on each kind of database."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from runstore.mount import MountedApp
from tests.servers.databases import DATABASES, empty_database


async def told(input: str) -> AsyncIterator[str]:
    yield input


@pytest.mark.parametrize("kind", DATABASES)
async def test_the_size_of_the_database_is_what_it_takes(kind: str, tmp_path: Path) -> None:
    with empty_database(kind, tmp_path) as url:
        app = MountedApp(url, agents={"told": told})
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with app.open(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.get("/database")
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert (found["kind"], found["bytes"] > 50_000) == (kind, True)
            assert answer.headers["cache-control"] == "no-store"
            if kind == "mysql":
                return  # its figures are renewed now and then
            for _ in range(8):
                body = {"input": "x" * 500_000}
                assert (await client.post("/agents/told/start", json=body)).status_code == 202
            grown = (await client.get("/database")).json()["bytes"]
            assert grown - found["bytes"] > (8 * 500_000 if kind == "sqlite" else 10_000)
