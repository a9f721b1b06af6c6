"""`/projections` and `/prices` on a real server."""

from pathlib import Path

from tests.kit.keys import client, make_key
from tests.kit.polling import until
from tests.kit.server import ServerProcess, serving

PRICES = """
[[prices.m]]
input = 3.0
output = 15.0

[[prices.m]]
input = 2.0
output = 10.0
cache_read = 0.2
currency = "USD"
from-date = 2026-06-01
"""


async def test_a_rebuild_is_asked_for_and_ends(server: ServerProcess) -> None:
    def usage() -> dict[str, object]:
        data = server.http.get("/projections").json()["data"]
        return next(each for each in data if each["name"] == "usage")

    await until(lambda: usage()["state"] == "running")
    for _ in range(2):
        assert server.http.post("/projections/usage/rebuild").status_code == 202
    await until(lambda: usage()["state"] == "running" and usage()["rebuilt_to"] is None)


def test_an_unknown_projection_is_not_found(server: ServerProcess) -> None:
    answer = server.http.post("/projections/none/rebuild")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "projection_not_found")


def test_prices_are_those_of_the_configuration_and_only_admins_rebuild(tmp_path: Path) -> None:
    keys = {role: make_key(tmp_path, role, role) for role in ("user", "auditor", "admin")}  # type: ignore[arg-type]
    with serving(tmp_path, PRICES) as server:
        answers = {}
        for role, key in keys.items():
            with client(server, key) as http:
                answers[role] = (
                    http.get("/projections").status_code,
                    http.post("/projections/usage/rebuild").status_code,
                )
                prices = http.get("/prices").json()["data"]
    assert answers == {"user": (403, 403), "auditor": (200, 403), "admin": (200, 202)}
    assert [(each["from_date"], each["input"], each["cache_read"]) for each in prices] == [
        (None, 3.0, None),
        ("2026-06-01", 2.0, 0.2),
    ]
