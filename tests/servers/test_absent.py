"""The last line of a test run names the servers that it had to do without."""

import pytest

from tests.servers import shared
from tests.servers.absent import absent
from tests.servers.shared import SHARED


@pytest.mark.parametrize(
    ("kind", "name", "package"),
    [
        ("postgresql", "PostgreSQL", "postgresql"),
        ("mysql", "MariaDB", "mariadb-server"),
        ("redis", "Redis", "redis-server"),
    ],
)
def test_a_server_that_does_not_answer_is_named_with_the_way_to_have_it(
    kind: str, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, default = SHARED[kind]
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv(variable, f"{default.partition(':')[0]}://127.0.0.1:1")
    with pytest.raises(pytest.skip.Exception) as skipped:
        shared.url_of(kind)
    line = absent(["strace is not installed", str(skipped.value)])
    assert line is not None
    for word in (f": {name}. ", f"install {package} and", "-m tests.servers make test", variable):
        assert word in line


def test_nothing_is_said_when_all_of_them_are_there() -> None:
    assert absent(["strace is not installed"]) is None
