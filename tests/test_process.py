"""The limit of open files that a process gives itself."""

import resource
from collections.abc import Iterator

import pytest

from runstore.process import raise_open_files


@pytest.fixture
def limit() -> Iterator[tuple[int, int]]:
    """Soft and hard."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_of_open_files_is_raised_as_far_as_the_hard_one_allows(limit: tuple[int, int]) -> None:
    soft, hard = limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    raise_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(65_536, hard), hard)


def test_a_higher_soft_limit_is_kept(limit: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstore.process.OPEN_FILES", 16)
    raise_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
