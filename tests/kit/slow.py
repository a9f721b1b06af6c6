"""Parameters that `make test` leaves out, and `make test-all` takes."""

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def slow(*values: Any) -> ParameterSet:
    """One set of values for `parametrize`."""
    return pytest.param(*values, marks=pytest.mark.slow)


def mostly_slow(values: Iterable[str], *kept: str) -> list[str | ParameterSet]:
    """All values for `parametrize`, slow but for `kept`."""
    all_values = list(values)
    assert set(kept) <= set(all_values)
    return [each if each in kept else slow(each) for each in all_values]
