"""`/healthz` and `/readyz`."""

import httpx
import pytest


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_server_that_works_says_so(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok"}
