"""The last line of a test run, which names missing servers."""

from collections.abc import Iterable

from tests.servers.shared import SHARED

NAMES = {"postgresql": "PostgreSQL", "mysql": "MariaDB", "redis": "Redis"}
PACKAGES = {"postgresql": "postgresql", "mysql": "mariadb-server", "redis": "redis-server"}


def absent(reasons: Iterable[str]) -> str | None:
    """A line about the servers that tests were skipped for; None if they had them all.

    Args:
        reasons: why tests were skipped.
    """
    said = set(reasons)
    kinds = [kind for kind in NAMES if any(SHARED[kind][0] in reason for reason in said)]
    if not kinds:
        return None
    variable_of = {kind: SHARED[kind][0] for kind in kinds}
    names, packages, variables = (
        ", ".join(of[kind] for kind in kinds) for of in (NAMES, PACKAGES, variable_of)
    )
    return (
        f"NOT TESTED, as no server answers: {names}. To have them, install {packages} and run"
        f" `.venv/bin/python -m tests.servers make test`, which starts them, or set {variables}."
    )
