"""Every failure of a model's server ends the run with a code that implies the reaction."""

import time
from itertools import islice
from typing import Any

import pytest

from tests.kit.frames import said
from tests.kit.server import DEADLINE_S, ServerProcess, until
from tests.kit.waits import within
from tests.models.conftest import PROVIDERS
from tests.models.standins import WORDS, ModelServer

GRACE_S = 2.0  # the default, from a stop request to the run's ending
SPOKEN = "".join(WORDS[:2])

FAILURES = {  # agent → code, words of the message
    "status-400": ("model_refused", "does not accept the request"),
    "status-401": ("model_auth", "refuses the key"),
    "status-404": ("model_not_found", "no such model"),
    "status-500": ("model_unavailable", "provider failed"),
    "nobody": ("model_unavailable", "connection"),
    "resets": ("model_unavailable", "failed or broke"),
    "hangs-up": ("model_unavailable", "failed or broke"),
    "garbage": ("model_invalid_answer", ""),
    "web-page": ("model_invalid_answer", ""),
}


def failure(server: ServerProcess, agent: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A failed run's record and its events."""
    run_id = server.begin(agent, f"Hello, {agent}")
    record = server.ended(run_id)
    assert record["status"] == "error", record
    return record, server.events(run_id)


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_models_failure_has_a_code_and_one_line(server: ServerProcess, provider: str, kind: str) -> None:
    code, words = FAILURES[kind]
    record, events = failure(server, f"{provider}-{kind}")
    assert record["error_code"] == code, record["error"]
    assert words in record["error"].lower()
    assert "\n" not in record["error"]
    assert "Traceback" not in record["error"]
    assert events[-1]["type"] == "lifecycle.failed"
    assert events[-1]["data"] == {"code": code, "message": record["error"]}


@pytest.mark.parametrize("kind", ["resets", "hangs-up"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_text_of_a_model_before_it_broke_off_is_kept(
    server: ServerProcess, provider: str, kind: str
) -> None:
    _, events = failure(server, f"{provider}-{kind}")
    texts = [event["data"]["text"] for event in events if event["type"] == "llm.token"]
    assert SPOKEN.startswith("".join(texts))  # a reset may overtake data in flight


@pytest.mark.parametrize("kind", ["stops-talking", "never-answers"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_run_whose_model_is_silent_is_stopped_within_the_grace_period(
    server: ServerProcess, models: ModelServer, provider: str, kind: str
) -> None:
    question = f"Are you there, {provider}-{kind}?"
    run_id = server.begin(f"{provider}-{kind}", question)
    request = waiting_request(models, question)
    with within(GRACE_S, server.pid):
        record = server.stop_run(run_id)
    assert (record["status"], record["forced"]) == ("stopped", False)
    assert request.gone.wait(DEADLINE_S), "the model's server notices the closed connection"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_words_are_seen_before_their_model_falls_silent(server: ServerProcess, provider: str) -> None:
    run_id = server.begin(f"{provider}-stops-talking")
    tokens = list(islice(server.frames(run_id, types="llm.token"), 2))
    assert said(tokens) == SPOKEN
    server.stop_run(run_id)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_run_whose_model_is_silent_ends_at_its_time_limit(server: ServerProcess, provider: str) -> None:
    record, _ = failure(server, f"{provider}-late")
    assert (record["error_code"], record["error"]) == ("timeout", "the run took longer than 0.3 s")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_throttled_model_is_asked_again_and_answers(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    question = f"Busy, {provider}?"
    record = server.ended(run_id := server.begin(f"{provider}-recovers", question))
    assert (record["status"], record["result"]["text"]) == ("success", "".join(WORDS))
    assert len(models.heard(question)) == 2
    until(lambda: complaints(server, run_id) == ["model_throttled"], "the failed call is logged")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_model_that_stays_throttled_is_given_up_and_each_try_is_in_the_servers_log(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    record, events = failure(server, f"{provider}-status-429")
    assert (record["error_code"], "there are too many" in record["error"]) == ("model_throttled", True)
    assert len(models.heard(f"Hello, {provider}-status-429")) == 2  # model_attempts
    run_id = events[0]["run_id"]
    until(lambda: complaints(server, run_id) == ["model_throttled", "model_throttled"], "both are logged")


def waiting_request(models: ModelServer, question: str) -> Any:
    """The request that asks this, once it has come."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := models.heard(question)):
        assert time.monotonic() < deadline, "the model is not asked"
        time.sleep(0.01)
    return found[0]


def complaints(server: ServerProcess, run_id: str) -> list[str]:
    """The codes of the `model_failed` lines of a run."""
    lines = [line for line in server.log.splitlines() if line.startswith("model_failed") and run_id in line]
    return [word.removeprefix("code=") for line in lines for word in line.split() if word.startswith("code=")]
