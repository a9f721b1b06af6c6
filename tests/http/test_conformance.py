"""The server's answers to requests that schemathesis generates keep to its OpenAPI document.

schemathesis generates its cases when tests are collected, which takes seconds in each process: `make test`
does not collect this file (see `conftest.py`). `test_documented_answers.py` checks the documented answers
themselves.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import negative_data_rejection
from schemathesis.specs.openapi.schemas import OpenApiSchema

from runstore.http.app import SURFACES
from runstore.http.openapi import document
from runstore.http.schemas import ANY_TYPE, JSON
from tests.http.conftest import CONFIG, HEARTBEAT_S
from tests.kit.keys import client, make_key
from tests.kit.logs import assert_no_traceback
from tests.kit.server import DEADLINE_S, SILENT_AGENT, ServerProcess, serving
from tests.kit.teams import EXECUTOR, Executor

pytestmark = pytest.mark.slow

# Ids that requests are made of before there is a server; each is replaced by that of a run of its kind,
CLOSED, OPEN, DELETED, NONE = (f"01890a5d-ac96-774b-bcce-b302099a800{digit}" for digit in range(4))
STORED, GONE = (f"01890a5d-ac96-774b-bcce-b302099a801{digit}" for digit in range(2))  # or of a hierarchy

CHAT = "/v1/chat/completions"
START = f"{EXECUTOR}/runs/start"
ASKED = {"messages": [{"role": "user", "content": "one two three"}], "model": "quick"}
EXAMPLES: dict[str, list[dict[str, Any]]] = {  # of bodies that are good; most that can be made up are not
    CHAT: [
        {"prompt": "one two three", "model": "quick", "whatever": 1},
        ASKED,
        {**ASKED, "stream": True},
        {**ASKED, "stream": True, "stream_options": {"include_usage": True}, "metadata": {"a": [1]}},
    ],
    START: [
        {"hierarchy_id": STORED, "task": "hi"},
        {"hierarchy_id": STORED, "task": "hi", "session_id": "s", "multitask_strategy": "interrupt"},
    ],
}

CHOICES: dict[str, Any] = {
    "generation": {"deterministic": True, "with-security-parameters": False},
    "phases": {"stateful": {"inference": {"algorithms": []}}},  # nothing but the links of the document
    "dictionaries": {
        "agents": {"values": ["quick"]},
        "runs": {"values": [CLOSED, OPEN, DELETED, NONE]},
        "ended runs": {"values": [CLOSED, DELETED, NONE]},  # no request waits for their end
        "hierarchies": {"values": [STORED]},
        "all hierarchies": {"values": [STORED, GONE]},
    },
    "parameters": {
        "path.agent": {"dictionary": "agents", "probability": 0.9},
        "path.model": {"dictionary": "agents", "probability": 0.9},
        "path.run_id": {"dictionary": "runs", "probability": 0.9},
        "path.other_id": {"dictionary": "runs", "probability": 0.9},
        "body.model": {"dictionary": "agents", "probability": 0.9},
        "body.run_id": {"dictionary": "runs", "probability": 0.9},
        "body.hierarchy_id": {"dictionary": "hierarchies", "probability": 0.9},
    },
    "checks": {
        "use_after_free": {"enabled": False},  # an admin reads deleted runs; their owners get 410
        "negative_data_rejection": {"expected-statuses": ["4xx"]},
        # Rules that no schema can express: a cursor ahead of the run, 1.0 for 1, another user's workspace, …
        "positive_data_acceptance": {"expected-statuses": ["2xx", "304", "400", "403", "404", "409", "410"]},
    },
    "operations": [
        {
            "include-operation-id": ["follow_run", "get_run"],
            "parameters": {"path.run_id": {"dictionary": "ended runs", "probability": 0.9}},
        },
        {
            "include-operation-id": ["get_hierarchy", "delete_hierarchy"],
            "parameters": {"body.hierarchy_id": {"dictionary": "all hierarchies", "probability": 0.9}},
        },
        {
            "include-operation-id": ["follow_team_run"],
            "parameters": {"body.run_id": {"dictionary": "ended runs", "probability": 0.9}},
        },
    ],
}
UNKNOWN_HEADER = "x-schemathesis-unknown-property"  # which any server ignores
FUZZED = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

# Ahead of the run; a name twice, no such model; a text without a word.
UNSAID_CODES = {"invalid_cursor", "invalid_hierarchy", "invalid_query"}
UNSAID_WORDS = (
    "got `float`",  # 1.0 instead of 1
    "types cannot be given with format=openai",
    "deleted cannot be given with purged=true",
    "must not be later than",  # the beginning of a time that ends before it
    "the character NUL",  # in JSON of any form
    "messages[",  # of whom the last message of a chat is, what a message of which role holds
)


def nothing_valid_is_refused(ctx: Any, answer: schemathesis.Response, case: schemathesis.Case) -> None:
    """A request that fits the document is answered 400 only for a rule that no schema can express."""
    if answer.status_code == 400 and case.meta and case.meta.generation.mode.is_positive:
        error = answer.json()["error"]
        assert error["code"] in UNSAID_CODES or any(words in error["message"] for words in UNSAID_WORDS), (
            error
        )


class Api:
    """A server, and new runs of every kind on it."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        executor = Executor(server.http)
        self._ids = {
            CLOSED: server.begin("quick"),
            OPEN: server.begin_silent(),
            DELETED: server.begin("quick"),
            STORED: executor.create(),
            GONE: executor.create(),
        }
        for kind in (CLOSED, DELETED):
            server.ended(self._ids[kind])
        assert server.http.delete(f"/runs/{self._ids[DELETED]}").status_code == 204
        executor.data("hierarchies/delete", {"hierarchy_id": self._ids[GONE]})

    def check(self, case: schemathesis.Case) -> None:
        for values in (case.path_parameters, case.body):
            if isinstance(values, dict):
                values |= {name: self._ids[id] for name, id in values.items() if self._known(id)}
        key = self._server.http.headers.get("authorization")
        headers = {"Authorization": key} if key else {}
        if case.path == CHAT and not key:
            headers = {"Authorization": "Bearer devkey", "Content-Type": "text/plain"}
        case.call_and_validate(
            base_url=str(self._server.http.base_url).rstrip("/"),
            headers=headers,
            additional_checks=[nothing_valid_is_refused],
            excluded_checks=[negative_data_rejection] if UNKNOWN_HEADER in case.headers else None,
            timeout=DEADLINE_S,
        )

    def _known(self, value: Any) -> bool:
        return isinstance(value, str) and value in self._ids


def schema(*, needs_login: bool) -> OpenApiSchema:
    said = msgspec.json.decode(msgspec.json.encode(document(SURFACES, needs_login=needs_login)))
    examples = {
        "agent": "quick", "model": "quick", "run_id": CLOSED, "other_id": CLOSED, "request_id": "1.1", "n": 1,
        "name": "tools",
    }  # fmt: skip
    # JSON that is said to be something else is what no tool makes; the test says so itself.
    del said["paths"][CHAT]["post"]["requestBody"]["content"][ANY_TYPE]
    for path, bodies in EXAMPLES.items():
        content = said["paths"][path]["post"]["requestBody"]["content"][JSON]
        content["examples"] = {str(number): {"value": body} for number, body in enumerate(bodies)}
    for path, operations in said["paths"].items():
        for method, operation in operations.items():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path":
                    parameter["example"] = examples[parameter["name"]]
                    if (method, path) == ("post", "/runs/{run_id}/events"):
                        parameter["example"] = OPEN
    whole = schemathesis.openapi.from_dict(said, config=schemathesis.Config.from_dict(CHOICES))
    return whole.exclude(operation_id="follow_audit_events")  # a good answer has no end


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("open"), CONFIG, SILENT_AGENT, heartbeat_s=HEARTBEAT_S) as server:
        yield server
        assert_no_traceback(server.log)


@pytest.fixture
def open_api(open_server: ServerProcess) -> Api:
    return Api(open_server)


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("guarded")
    key = make_key(folder, "alice")
    with (
        serving(folder, CONFIG, SILENT_AGENT, heartbeat_s=HEARTBEAT_S) as server,
        client(server, key) as http,
    ):
        server.http.headers.update(http.headers)
        yield server
        assert_no_traceback(server.log)


@pytest.fixture
def guarded_api(guarded_server: ServerProcess) -> Api:
    return Api(guarded_server)


@schema(needs_login=False).parametrize()
@FUZZED
def test_every_answer_is_as_the_document_says(case: schemathesis.Case, open_api: Api) -> None:
    open_api.check(case)


@schema(needs_login=True).parametrize()
@settings(FUZZED, max_examples=5)
def test_every_answer_is_as_the_document_says_where_keys_are_in_use(
    case: schemathesis.Case, guarded_api: Api
) -> None:
    guarded_api.check(case)


def test_what_follows_from_an_answer_is_as_the_document_says_too(open_server: ServerProcess) -> None:
    machine = schema(needs_login=False).as_state_machine()

    class Client(machine):  # type: ignore[misc, valid-type]
        def before_call(self, case: schemathesis.Case) -> None:
            case.headers.pop("Idempotency-Key", None)  # each session is to begin with runs of its own

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"base_url": str(open_server.http.base_url).rstrip("/"), "timeout": DEADLINE_S}

        def validate_response(self, response: Any, case: Any, **options: Any) -> None:
            super().validate_response(response, case, additional_checks=[nothing_valid_is_refused], **options)

    Client.run(settings=settings(FUZZED, max_examples=20, stateful_step_count=8, phases=[Phase.generate]))
