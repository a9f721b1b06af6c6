"""A replay asks real providers again."""

import json

import pytest

from tests.kit.command_line import call_command
from tests.kit.server import ServerProcess
from tests.models.standins import ModelServer


@pytest.mark.slow
def test_a_replay_asks_another_model_of_the_same_provider(server: ServerProcess, models: ModelServer) -> None:
    run_id = server.begin("openai-tool", "What is 19 and 23?")
    assert server.ended(run_id)["status"] == "success"
    url = str(server.http.base_url)
    before = len(models.requests)
    equal = call_command("replay", run_id, "--json", "--url", url, folder=server.folder)
    assert equal.returncode == 0, equal.stdout + equal.stderr
    assert [request.body["model"] for request in models.requests[before:]] == ["talks", "talks"]
    other = call_command("replay", run_id, "--json", "--url", url, "--model", "thinks", folder=server.folder)
    found = json.loads(other.stdout)
    assert (other.returncode, found["difference"]["kind"]) == (1, "message")
    assert found["difference"]["recorded"]["calls"] == [{"name": "add", "input": {"a": 19, "b": 23}}]
    assert found["difference"]["came"] == {"text": "The answer is 42.", "calls": []}
    assert models.requests[-1].body["model"] == "thinks"
