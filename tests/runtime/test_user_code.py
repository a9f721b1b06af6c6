"""What becomes of errors that users' code raises, whatever they are."""

from collections.abc import Sequence
from typing import Any

import pytest

from runstore.core.errors import AgentError
from runstore.runtime.user_code import failed


class OfItself(ExceptionGroup):
    """A group whose only member is the group."""

    @property
    def exceptions(self) -> tuple[Any, ...]:
        return (self,)

    def derive(self, excs: Sequence[Any]) -> "OfItself":
        return OfItself(self.message, excs)


def test_a_group_that_names_itself_as_its_member_is_an_error_like_others() -> None:
    assert "endless" in str(failed("the agent", OfItself("endless", [ValueError("x")])))


@pytest.mark.parametrize("depth", [1, 3])
def test_of_groups_of_one_the_member_counts(depth: int) -> None:
    error: Exception = AgentError("out of ink", code="no_ink")
    for _ in range(depth):
        error = ExceptionGroup("of a TaskGroup", [error])
    assert (failed("the agent", error).code, str(failed("the agent", error))) == ("no_ink", "out of ink")
