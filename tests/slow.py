"""Parameters of which `make test` takes a few, and `make test-all` each."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet


def mostly_slow(values: Iterable[str], *kept: str) -> list[str | ParameterSet]:
    """All values for `parametrize`, slow but for `kept`."""
    all_values = list(values)
    assert set(kept) <= set(all_values)
    return [each if each in kept else pytest.param(each, marks=pytest.mark.slow) for each in all_values]
