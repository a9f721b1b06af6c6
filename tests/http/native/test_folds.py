"""Steps, comparisons and transcripts take turns at two places: without one in time they are refused."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from runstore.app import open_runtime
from runstore.http import app
from runstore.http.native import steps
from runstore.settings import ServerSettings, Settings
from runstore.threads import Threads
from tests.http.streaming.test_stuck_client import EVENTS, closed_run, running
from tests.kit.polling import DEADLINE_S

WAIT_S = 0.2  # for a turn, in place of `steps.WAIT_S`


@contextmanager
def all_taken(threads: Threads) -> Iterator[None]:
    """All places are taken by calls that hang."""
    end, begun = threading.Event(), threading.Barrier(steps.FOLDS + 1)

    def hang() -> None:
        begun.wait(DEADLINE_S)
        end.wait(DEADLINE_S)

    for _ in range(steps.FOLDS):
        threads.submit(hang, "")
    begun.wait(DEADLINE_S)
    try:
        yield
    finally:
        end.set()


@pytest.fixture
async def served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, str, Threads]]:
    """A client of a server with a run, and the server's threads."""
    monkeypatch.setattr(steps, "WAIT_S", WAIT_S)
    threads = steps.fold_threads()
    monkeypatch.setattr(app, "fold_threads", lambda: threads)
    settings = Settings(ServerSettings(database_url=f"sqlite:///{tmp_path / 'runstore.db'}"))
    async with open_runtime(settings) as runtime:
        run_id = await closed_run(runtime)
        with running(runtime) as server:
            url = f"http://127.0.0.1:{server.port}"  # type: ignore[attr-defined]
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False) as http:
                yield http, run_id, threads


@pytest.mark.slow
async def test_a_request_without_a_free_place_in_time_is_refused_with_retry_after(
    served: tuple[httpx.AsyncClient, str, Threads],
) -> None:
    http, run_id, threads = served
    paths = [f"/runs/{run_id}/{rest}" for rest in ("steps", f"compare/{run_id}", "transcript")]
    with all_taken(threads):
        for path in paths:
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_busy"), path
            assert "the server is busy: no free thread" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"] == "1"
        assert (await http.get(f"/runs/{run_id}")).status_code == 200, "other requests go on"
    for path in paths:
        assert (await http.get(path)).status_code == 200


@pytest.mark.slow
async def test_a_download_that_has_begun_waits_for_a_place(
    served: tuple[httpx.AsyncClient, str, Threads],
) -> None:
    http, run_id, threads = served
    async with http.stream("GET", f"/runs/{run_id}/transcript") as answer:
        parts = answer.aiter_bytes()
        text = [await anext(parts)]
        with all_taken(threads):
            rest = asyncio.create_task(_read(parts))
            await asyncio.sleep(3 * WAIT_S)
            assert not rest.done()
        text += await rest
    assert b"".join(text).count(b"## large") == EVENTS


async def _read(parts: AsyncIterator[bytes]) -> list[bytes]:
    return [part async for part in parts]
