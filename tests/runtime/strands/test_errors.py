"""Errors in the shapes of the SDKs, built here: no SDK needs to be installed."""

import json
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, EventStreamError, NoCredentialsError
from strands.multiagent import Swarm
from strands.types.exceptions import EventLoopException, ModelThrottledException

from runstore.core.errors import AgentError
from runstore.runtime.strands.errors import agent_error, described, is_throttled, model_error_code
from tests.runtime.strands_kit import Playbook, agent, drive


class SdkError(Exception):
    """An SDK's error with the given attributes."""

    def __init__(self, text: str = "boom", **fields: Any) -> None:
        super().__init__(text)
        vars(self).update(fields)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def aws(status: int, code: str) -> ClientError:
    metadata = {"HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, "ConverseStream")  # type: ignore[typeddict-item]


def in_stream(code: str) -> EventStreamError:
    """An error in the middle of a stream of AWS, which has no status."""
    return EventStreamError({"Error": {"Code": code, "Message": "within"}}, "ConverseStream")


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
REFUSED = httpx.ConnectError("refused")
SHAPES = [
    ("a status", SdkError(status_code=404), "model_not_found"),
    ("a status called code", SdkError(code=403), "model_auth"),
    ("a response with a status", SdkError(response=httpx.Response(503)), "model_unavailable"),
    ("an unusual status", SdkError(status_code=422), "model_refused"),
    ("an overload of Anthropic's", SdkError(status_code=529), "model_unavailable"),
    ("no status at all", SdkError(status_code=-1), "model_error"),
    ("an error in mid-stream", SdkError(status_code=200, body=OVERLOADED), "model_unavailable"),
    ("another in mid-stream", SdkError(body={"type": "server_error"}), "model_unavailable"),
    ("a code in mid-stream", SdkError(body={"code": "server_error"}), "model_unavailable"),
    ("a code without an object", SdkError(code="server_error"), "model_unavailable"),
    ("a quota in mid-stream", SdkError(body={"type": "x", "code": "insufficient_quota"}), "model_throttled"),
    ("a prompt refused in mid-stream", SdkError(code="invalid_prompt"), "model_refused"),
    ("a status as a code", SdkError(code="503"), "model_unavailable"),
    ("AWS failing in mid-stream", in_stream("internalServerException"), "model_unavailable"),
    ("AWS' model failing in mid-stream", in_stream("modelStreamErrorException"), "model_unavailable"),
    ("AWS overloaded in mid-stream", in_stream("serviceUnavailableException"), "model_unavailable"),
    ("AWS refusing in mid-stream", in_stream("validationException"), "model_refused"),
    ("AWS' model failing", aws(424, "ModelErrorException"), "model_unavailable"),
    ("AWS refusing", aws(400, "ValidationException"), "model_refused"),
    ("AWS without a right", aws(403, "AccessDeniedException"), "model_auth"),
    ("AWS without credentials", NoCredentialsError(), "model_auth"),
    ("AWS that cannot be reached", EndpointConnectionError(endpoint_url="http://x"), "model_unavailable"),
    ("a missing key", SdkError("The api_key client option must be set"), "model_auth"),
    ("a missing key as a 500", SdkError("Missing credentials.", status_code=500), "model_auth"),
    ("no connection", REFUSED, "model_unavailable"),
    ("no connection, wrapped", caused(SdkError("Connection error."), REFUSED), "model_unavailable"),
    ("no time left", TimeoutError(), "model_unavailable"),
    ("no JSON", json.JSONDecodeError("Expecting value", "<html>", 0), "model_invalid_answer"),
    ("nothing at all", TypeError("'NoneType' object is not iterable"), "model_invalid_answer"),
    ("content of no use", TypeError("content_type=<video> | unsupported type"), "invalid_input"),
    ("throttled", ModelThrottledException("slow down"), "model_throttled"),
    ("wrapped by strands", EventLoopException(SdkError(status_code=401)), "model_auth"),
    ("anything else", ValueError("boom"), "model_error"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), [pytest.param(*row[1:], id=row[0]) for row in SHAPES])
def test_an_error_is_recognised_by_its_shape(error: BaseException, code: str) -> None:
    assert model_error_code(error) == code


def test_an_error_that_caused_itself_is_read_once() -> None:
    error = SdkError()
    assert model_error_code(caused(error, caused(SdkError(), error))) == "model_error"


def test_the_cause_is_reported_if_the_error_has_no_text() -> None:
    assert (
        described(caused(SdkError("Connection error."), REFUSED)) == "SdkError: Connection error. (refused)"
    )
    assert described(httpx.ReadError("")) == "ReadError (the connection to the model broke)"
    assert described(REFUSED) == "ConnectError: refused"


def test_only_a_models_own_error_is_reported_as_one() -> None:
    error = SdkError(status_code=401)
    assert agent_error(error, [error]).code == "model_auth"
    assert agent_error(error, [error, ValueError("of another agent, later")]).code == "model_auth"
    assert agent_error(error).code == "agent_error"
    ours = AgentError("mine", code="mine")
    assert agent_error(EventLoopException(ours)) is ours


async def test_the_code_of_a_nodes_failing_model_is_the_runs() -> None:
    with pytest.raises(AgentError) as caught:
        await drive(Swarm([agent(Playbook([SdkError("wrong key", status_code=401)]), name="first")]))
    assert str(caught.value) == "node 'first' failed: the model's provider refuses the key, or no key is set"
    assert caught.value.code == "model_auth"


def test_only_an_answer_that_has_not_begun_is_asked_for_again() -> None:
    assert is_throttled(ModelThrottledException("slow down"))
    assert is_throttled(SdkError(status_code=429))
    assert not is_throttled(SdkError(status_code=200, body={"error": {"type": "rate_limit_error"}}))
    assert not is_throttled(SdkError(status_code=500))
