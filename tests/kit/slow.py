"""Parameters that `make test` leaves out, and `make test-all` takes."""

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.servers.databases import DATABASES
from tests.soak import SOAK


def slow(*values: Any) -> ParameterSet:
    """One set of values for `parametrize`."""
    return pytest.param(*values, marks=pytest.mark.slow)


def mostly_slow(values: Iterable[str], *kept: str) -> list[str | ParameterSet]:
    """All values for `parametrize`, slow but for `kept`."""
    all_values = list(values)
    assert set(kept) <= set(all_values)
    return [each if each in kept else slow(each) for each in all_values]


# For tests with servers of their own: `tests/faults` tries every database, and `make soak` takes all here.
TWO_DATABASES = ["sqlite", slow("postgresql"), *([slow("mysql")] if SOAK > 1 else [])]


def shared_out(values: Iterable[Any], *kept: Any, kinds: Iterable[str] = DATABASES) -> list[ParameterSet]:
    """Pairs of a value and a kind of database, for rules that no database decides.

    Each value comes with SQLite, and slow with one of the servers in turn; `make soak` takes all pairs. Pairs
    of `kept` and SQLite are quick.
    """
    first, *servers = kinds
    pairs = []
    for number, value in enumerate(values):
        quick = () if value in kept else (pytest.mark.slow,)
        chosen = servers if SOAK > 1 else [servers[number % len(servers)]]
        pairs.append(pytest.param(value, first, marks=quick))
        pairs += [pytest.param(value, kind, marks=pytest.mark.slow) for kind in chosen]
    return pairs
