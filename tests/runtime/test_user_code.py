"""Errors of users' code, of every kind."""

from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest
from structlog.testing import capture_logs

from runstore.core.errors import AgentError
from runstore.runtime.user_code import failed, for_users, in_a_line


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
def test_the_member_of_a_group_of_one_counts(depth: int) -> None:
    error: Exception = AgentError("out of ink", code="no_ink")
    for _ in range(depth):
        error = ExceptionGroup("of a TaskGroup", [error])
    assert (failed("the agent", error).code, str(failed("the agent", error))) == ("no_ink", "out of ink")


def raised_from(error: BaseException, cause: BaseException, *, implicitly: bool = False) -> BaseException:
    """`error`, as a handler of `cause` raises it."""
    try:
        try:
            raise cause
        except BaseException:
            if implicitly:
                raise error  # noqa: B904
            raise error from cause
    except BaseException as raised:
        return raised


@pytest.mark.parametrize("implicitly", [False, True])
@pytest.mark.parametrize("wrapped", [0, 1, 3])
@pytest.mark.parametrize("depth", [1, 3])
def test_an_error_names_the_members_of_the_group_that_it_was_raised_from(
    depth: int, wrapped: int, implicitly: bool
) -> None:
    error: BaseException = ExceptionGroup("inner", [OSError("refused"), ValueError("too long")])
    for _ in range(depth):
        error = ExceptionGroup("unhandled errors in a TaskGroup (1 sub-exception)", [error])
    for number in range(wrapped):
        error = raised_from(RuntimeError(f"start {number} failed"), error, implicitly=implicitly)
    assert in_a_line(error).endswith(": OSError: refused; ValueError: too long")


def test_causes_that_were_hidden_on_purpose_or_stand_outside_of_a_group_are_not_named() -> None:
    hidden = raised_from(RuntimeError("no"), ExceptionGroup("a group", [OSError("refused")]))
    hidden.__cause__, hidden.__suppress_context__ = None, True
    assert in_a_line(hidden) == "RuntimeError: no"
    assert in_a_line(raised_from(RuntimeError("no"), OSError("refused"))) == "RuntimeError: no"


def test_causes_in_a_circle_end() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert in_a_line(first) == "RuntimeError: first"


OPAQUE = "7f3e9c-opaque-credential"
REQUEST = httpx.Request("GET", f"https://api.example/{OPAQUE}")
ANSWER = httpx.Response(401, request=REQUEST)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (httpx.HTTPStatusError(OPAQUE, request=REQUEST, response=ANSWER), "HTTPStatusError (HTTP 401)"),
        (httpx.ConnectError(OPAQUE, request=REQUEST), "ConnectError"),
        (openai.AuthenticationError(OPAQUE, response=ANSWER, body=None), "AuthenticationError (HTTP 401)"),
        (ExceptionGroup("two", [ValueError("mine"), httpx.ReadError(OPAQUE)]), "ExceptionGroup"),
    ],
)
def test_the_message_of_a_provider_is_in_the_log_alone(error: Exception, text: str) -> None:
    with capture_logs() as lines:
        failure = failed("the agent's generator", error)
        assert for_users(error) == f"{text}; its message is in the server's log"
    assert str(failure) == f"the agent's generator failed: {text}; its message is in the server's log"
    assert [OPAQUE in line["error"] for line in lines] == [True, True]


def test_an_error_of_ones_own_keeps_its_text_also_if_a_providers_caused_it() -> None:
    class Refused(httpx.HTTPError):
        """Of the user's own module."""

    error = Refused("no more paper")
    error.__cause__ = httpx.ReadError(OPAQUE)
    assert for_users(error) == "Refused: no more paper"
