"""`/v1/chat/completions`: what a client of OpenAI's API sends, and what comes back."""

import json
import threading
from typing import Any

import httpx
import pytest

from tests.kit.chat import (
    BEARER,
    URL,
    answer,
    ask,
    chunks,
    headers,
    lines,
    said,
    stream,
    streaming,
    text_of,
    words,
)
from tests.kit.server import DEADLINE_S, ServerProcess, until

COUNT = "Count from 1 to 3"
LONG = "Write a very long poem"


@pytest.fixture
def session(request: pytest.FixtureRequest) -> str:
    """A session of the test's own."""
    name: str = request.node.name
    return name


def error_of(found: httpx.Response, status: int) -> dict[str, Any]:
    assert found.status_code == status, found.text
    error: dict[str, Any] = found.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


# ---- what comes back ----


def test_a_completion_is_openais_object(server: ServerProcess) -> None:
    completion = answer(server, COUNT, model="quick")
    assert completion["object"] == "chat.completion"
    assert completion["model"] == "quick"
    assert completion["id"].startswith("chatcmpl-")
    assert completion["choices"] == [
        {
            "index": 0, "finish_reason": "stop", "logprobs": None,
            "message": {"role": "assistant", "content": "1 2 3", "refusal": None},
        }
    ]  # fmt: skip
    assert completion["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}


def test_a_stream_has_one_chunk_for_each_token_and_ends_with_done(server: ServerProcess) -> None:
    found = stream(server, COUNT, model="quick")
    assert said(found) == ["1 ", "2 ", "3"]
    *most, (_, last), (_, done) = found
    assert all(chunk["object"] == "chat.completion.chunk" for _, chunk in most)
    assert most[0][1]["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert done == "[DONE]"
    assert all("usage" not in chunk for _, chunk in found[:-1])


def test_usage_comes_in_a_chunk_of_its_own_when_it_is_asked_for(server: ServerProcess) -> None:
    *most, (_, usage), _ = stream(server, COUNT, model="quick", stream_options={"include_usage": True})
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert all(chunk["usage"] is None for _, chunk in most)


def test_without_a_model_the_demo_answers(server: ServerProcess) -> None:
    assert answer(server, "What is 2+2?")["model"] == "demo"


def test_parameters_that_are_not_used_are_ignored(server: ServerProcess) -> None:
    body = {"temperature": 0.2, "top_p": 1, "n": 1, "tools": [], "seed": 7, "user": "x", "whatever": None}
    assert text_of(answer(server, COUNT, model="quick", **body)) == "1 2 3"


def test_query_parameters_of_clients_are_ignored(http: httpx.Client) -> None:
    for path in ("/v1/models", "/v1/models/demo"):
        assert http.get(path, params={"user": "652ac880", "limit": "10"}).status_code == 200
    body = {"model": "demo", "prompt": "hi"}
    answer = http.post("/v1/chat/completions", params={"api-version": "2024-06-01"}, json=body)
    assert answer.status_code == 200


@pytest.mark.parametrize("base", ["/v1/", "//v1", "/v1/v1", "/v1//v1/", "/v1"])
@pytest.mark.parametrize("path", ["/models", "/models/demo", "/models/"])
def test_a_base_url_and_a_path_may_be_joined_carelessly(http: httpx.Client, base: str, path: str) -> None:
    assert http.get(f"{http.base_url}{base}{path}").json() == http.get(f"/v1{path.rstrip('/')}").json()
    body = {"model": "demo", "prompt": "hi"}
    assert http.post(f"{http.base_url}{base}/chat/completions", json=body).status_code == 200


def test_other_paths_are_read_exactly(http: httpx.Client) -> None:
    for path in (
        "/v1",
        "/v1/",
        "/v1/v1",
        "/v1//none",
        "/v1/models/demo/x",
        "/runs/",
        "//runs",
        "/x/v1/models",
    ):
        assert http.get(f"{http.base_url}{path}").status_code == 404, path


def test_the_models_are_the_agents(http: httpx.Client) -> None:
    models = http.get("/v1/models").json()
    assert models["object"] == "list"
    assert {model["id"] for model in models["data"]} == {"demo", "quick", "silent", "talker"}
    assert http.get("/v1/models/quick").json() == models["data"][1]
    assert error_of(http.get("/v1/models/none"), 404)["code"] == "model_not_found"


def test_every_chunk_has_its_events_seq_as_id(server: ServerProcess) -> None:
    with streaming(server, COUNT, model="quick") as found:
        run_id, seen = found.headers["x-run-id"], dict(chunks(found))
    tokens = {
        event["seq"]: event["data"]["text"] for event in server.events(run_id) if event["type"] == "llm.token"
    }
    assert tokens == {
        seq: chunk["choices"][0]["delta"]["content"] for seq, chunk in seen.items() if seq in tokens
    }
    assert set(seen) - {0} <= {event["seq"] for event in server.events(run_id)}


def test_a_session_has_the_same_name_in_a_header_and_in_a_body(server: ServerProcess) -> None:
    name = "küche 🍳"
    found = server.http.post(
        URL, json={"prompt": "hi", "model": "quick"}, headers=[(b"X-Session-Id", name.encode())]
    )
    assert server.record(found.headers["x-run-id"])["session_id"] == name


def test_a_completions_run_is_a_run_like_any_other(server: ServerProcess, session: str) -> None:
    found = ask(server, COUNT, session, model="quick", metadata={"a": "b"})
    record = server.record(found.headers["x-run-id"])
    assert (record["agent_name"], record["session_id"], record["status"]) == ("quick", session, "success")
    assert record["metadata"] == {"a": "b"}
    assert found.json()["id"] == f"chatcmpl-{record['run_id']}"


# ---- coming back to a stream ----


def test_a_stream_is_resumed_in_openais_format_with_the_same_bytes(server: ServerProcess) -> None:
    with streaming(server, COUNT, model="quick") as found:
        run_id, whole = found.headers["x-run-id"], b"".join(found.iter_raw()).removeprefix(b":\n")
    again = server.http.get(f"/runs/{run_id}/stream", params={"format": "openai"})
    assert again.content.removeprefix(b":\n") == whole
    frames = [frame + b"\n\n" for frame in whole.split(b"\n\n") if frame]
    after = int(frames[1].split(b"\n")[0].removeprefix(b"id: "))
    rest = server.http.get(
        f"/runs/{run_id}/stream", params={"format": "openai"}, headers={"Last-Event-ID": str(after)}
    )
    assert rest.content.removeprefix(b":\n") == b"".join(frames[2:])


def test_a_format_that_there_is_not_and_a_filter_of_chunks_are_refused(
    server: ServerProcess, closed_run: str
) -> None:
    for query in ("format=xml", "format=openai&types=llm.token"):
        found = server.http.get(f"/runs/{closed_run}/stream?{query}")
        assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_parameter")


def test_the_same_run_can_be_read_as_events(server: ServerProcess) -> None:
    run_id = ask(server, COUNT, model="quick").headers["x-run-id"]
    types = [frame.type for frame in server.frames(run_id)]
    assert types[0] == "lifecycle.queued"
    assert types[-1] == "lifecycle.completed"


def test_a_body_may_begin_with_a_byte_order_mark(server: ServerProcess) -> None:
    for body in (
        b'{"prompt": "Count from 1 to 3", "model": "quick"}',
        b'{"messages": [{"role": "user", "content": "Count from 1 to 3", "name": 5}], "model": "quick"}',
    ):
        found = server.http.post(URL, content=b"\xef\xbb\xbf" + body, headers=BEARER)
        assert text_of(found.json()) == "1 2 3"


def test_half_a_character_does_not_end_a_conversation(server: ServerProcess) -> None:
    """A client that cuts an answer to a length may cut an emoji, and sends it again with every turn."""
    said = [("user", "hi"), ("assistant", "one \ud83d"), ("user", "Count \ud83d\ude42 to 3 \ude42")]
    body = {"messages": [{"role": role, "content": text} for role, text in said], "model": "quick"}
    found = server.http.post(URL, content=json.dumps(body), headers=BEARER)
    assert found.status_code == 200, found.text
    asked = server.record(found.headers["x-run-id"])["input"]
    texts = [message["content"][0]["text"] for message in asked]
    lost = "\N{REPLACEMENT CHARACTER}"
    assert texts == ["hi", f"one {lost}", f"Count 🙂 to 3 {lost}"]


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"01", b"1,"])
def test_a_body_that_is_no_json_stays_an_error_beside_half_a_character(
    http: httpx.Client, number: bytes
) -> None:
    body = rb'{"prompt": "hi \ud83d", "temperature": %b}' % number
    found = http.post(URL, content=body, headers={"Content-Type": "application/json"})
    assert error_of(found, 400)["code"] in ("invalid_json", "invalid_body")


# ---- errors ----


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"prompt": "hi", "model": "none"}, "model_not_found", "model"),
        ({"prompt": "hi", "model": ""}, "model_not_found", "model"),
        ({}, "invalid_body", "messages"),
        ({"prompt": ""}, "invalid_body", "prompt"),
        ({"prompt": "  "}, "invalid_body", "prompt"),
        ({"prompt": 7}, "invalid_body", "prompt"),
        ({"prompt": "hi", "messages": [{"role": "user", "content": "hi"}]}, "invalid_body", "prompt"),
        ({"messages": []}, "invalid_body", "messages"),
        ({"messages": [{"role": "nobody", "content": "hi"}]}, "invalid_body", "messages[0].role"),
        ({"messages": [{"role": "user", "content": ""}]}, "invalid_body", "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "invalid_body", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
            "invalid_body", "messages[1].role",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
            "invalid_body", "messages[0].content[0].image_url.url",
        ),
        ({"prompt": "hi", "stream": "yes"}, "invalid_body", "stream"),
        ({"prompt": "hi", "stream_options": {"include_usage": 1}}, "invalid_body", "stream_options.include_"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_an_error_of_openais_form_with_its_field(
    http: httpx.Client, body: dict[str, Any], code: str, param: str
) -> None:
    error = error_of(http.post(URL, json=body), 404 if code == "model_not_found" else 400)
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert error["param"] is not None
    assert error["param"].startswith(param)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Session-Id", "x" * 256), ("X-Session-Id", ""),
        ("X-Multitask-Strategy", "rollback"), ("X-On-Disconnect", "perhaps"),
    ],
)  # fmt: skip
def test_a_wrong_header_is_named(http: httpx.Client, name: str, value: str) -> None:
    error = error_of(http.post(URL, json={"prompt": "hi"}, headers={name: value}), 400)
    assert error["code"] == "invalid_header"
    assert name in error["message"]


def test_every_error_below_v1_has_openais_form(http: httpx.Client) -> None:
    assert error_of(http.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(http.get(URL), 405)["code"] == "method_not_allowed"
    assert error_of(http.post(URL, content=b"{", headers=BEARER), 400)["code"] == "invalid_json"
    assert error_of(http.get("/v1/models/%00"), 400)["code"] == "invalid_path"
    assert (
        error_of(http.post(URL, json={"prompt": "hi"}, headers={"Host": "evil"}), 400)["code"]
        == "unknown_host"
    )
    too_large = http.post(URL, json={"prompt": "x" * (9 << 20)})
    assert error_of(too_large, 413)["code"] == "body_too_large"


def test_with_a_bearer_any_type_of_body_is_read_as_json_and_without_one_only_json(http: httpx.Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b'{"prompt":"What is 2+2?"}'
    assert http.post(URL, content=body, headers={**BEARER, **form}).is_success
    assert error_of(http.post(URL, content=body, headers=form), 415)["code"] == "unsupported_media_type"
    native = http.post("/agents/quick/start", content=b'{"input":"hi"}', headers={**BEARER, **form})
    assert native.status_code == 415


# ---- sessions ----


def superseded_stream(server: ServerProcess, session: str, seen: list[Any], begun: threading.Event) -> None:
    with streaming(server, "hi", session, model="silent") as found:
        for _, chunk in chunks(found):
            seen.append(chunk)
            begun.set()


def test_a_newer_request_of_the_session_supersedes_the_older_one(server: ServerProcess, session: str) -> None:
    seen: list[Any] = []
    begun = threading.Event()
    older = threading.Thread(target=superseded_stream, args=(server, session, seen, begun))
    older.start()
    assert begun.wait(DEADLINE_S)
    newer = ask(server, "What is 2+2?", session, model="quick")
    older.join(DEADLINE_S)
    assert text_of(newer.json()) == "4"
    assert seen[-1]["error"]["code"] == "superseded"
    until(lambda: words(server, session=session).count("stream_end") == 2, "both streams have ended")
    first = lines(server, session=session)[0][1]["trace"]
    assert server.record(first)["superseded_by"] == newer.headers["x-run-id"]
    assert words(server, trace=first, stream_id=first) == [
        "stream_start", "stream_cancelled", "prev_stream_finished_cleanly", "stream_end",
    ]  # fmt: skip
    assert lines(server, trace=first)[1][1]["reason"] == "superseded"
    assert words(server, trace=newer.headers["x-run-id"]) == ["stream_start", "stream_end"]


def test_a_completion_that_is_superseded_is_an_error_that_is_not_tried_again(
    server: ServerProcess, session: str
) -> None:
    found: list[httpx.Response] = []
    older = threading.Thread(target=lambda: found.append(ask(server, "hi", session, model="silent")))
    older.start()
    until(lambda: words(server, session=session) == ["stream_start"], "the first has begun")
    assert ask(server, "What is 2+2?", session, model="quick").is_success
    older.join(DEADLINE_S)
    assert error_of(found[0], 409)["code"] == "superseded"
    assert found[0].headers["x-should-retry"] == "false"


def test_another_strategy_can_be_chosen(server: ServerProcess, session: str) -> None:
    with streaming(server, "hi", session, model="silent"):
        busy = {**headers(session), "X-Multitask-Strategy": "reject"}
        refused = server.http.post(URL, json={"prompt": "hi"}, headers=busy)
        assert error_of(refused, 409)["code"] == "session_busy"
        assert refused.headers["x-should-retry"] == "false"
        beside = {**headers(session), "X-Multitask-Strategy": "parallel"}
        assert server.http.post(URL, json={"prompt": "hi", "model": "quick"}, headers=beside).is_success


# ---- memory: the scripted model counts every word that it was given ----


def heard(completion: dict[str, Any]) -> int:
    words: int = completion["usage"]["prompt_tokens"]
    return words


def test_a_prompt_goes_on_with_the_conversation_of_its_session(server: ServerProcess, session: str) -> None:
    assert heard(answer(server, "one two three", session, model="quick")) == 3
    assert heard(answer(server, "four", session, model="quick")) == 3 + 3 + 1
    assert heard(answer(server, "five", session, model="quick")) == 3 + 3 + 1 + 1 + 1
    assert heard(answer(server, "five", session + "-2", model="quick")) == 1
    assert heard(answer(server, "five", model="quick")) == 1


def test_messages_are_the_clients_own_history(server: ServerProcess, session: str) -> None:
    answer(server, "one two three", session, model="quick")
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": [{"type": "text", "text": "d"}]},
    ]
    found = server.http.post(URL, json={"messages": messages, "model": "quick"}, headers=headers(session))
    assert heard(found.json()) == 4
    assert text_of(found.json()) == "d"
    assert heard(answer(server, "next", session, model="quick")) == 4 + 1 + 1


def test_failed_stopped_and_deleted_turns_are_not_remembered(server: ServerProcess, session: str) -> None:
    with streaming(server, "never mind this", session, model="silent"):
        pass
    gone = ask(server, "nor this", session, model="quick").headers["x-run-id"]
    assert server.http.delete(f"/runs/{gone}").status_code == 204
    assert heard(answer(server, "hello", session, model="quick")) == 1


def test_a_key_knows_a_prompt_from_a_history_of_the_same_words(server: ServerProcess, session: str) -> None:
    prompt, history = {"prompt": "hello"}, {"messages": [{"role": "user", "content": "hello"}]}
    key = headers(session) | {"Idempotency-Key": session}

    def ask_with_key(body: dict[str, Any]) -> httpx.Response:
        return server.http.post(URL, json=body | {"model": "quick"}, headers=key)

    first = ask_with_key(prompt)
    assert ask_with_key(prompt).json() == first.json()
    assert error_of(ask_with_key(history), 409)["code"] == "idempotency_conflict"


# ---- clients that go away ----


def test_a_client_that_goes_away_ends_its_run(server: ServerProcess, session: str) -> None:
    with streaming(server, LONG, session, model="talker") as found:
        run_id = found.headers["x-run-id"]
        next(found.iter_raw())
    record = server.ended(run_id)
    assert (record["status"], record["reason"]) == ("stopped", "client_disconnect")
    until(lambda: "stream_end" in words(server, trace=run_id), "the stream has ended")
    assert words(server, trace=run_id) == ["stream_start", "stream_cancelled", "stream_end"]
    assert lines(server, trace=run_id)[1][1]["reason"] == "client_disconnect"


def test_a_client_that_waits_for_the_whole_answer_and_goes_away_ends_its_run(
    server: ServerProcess, session: str
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        server.http.post(URL, json={"prompt": "hi", "model": "silent"}, headers=headers(session), timeout=0.5)
    until(lambda: words(server, session=session) != [], "the request was seen")
    run_id = lines(server, session=session)[0][1]["trace"]
    assert server.ended(run_id)["reason"] == "client_disconnect"


def test_a_run_goes_on_without_its_client_if_the_request_asks_for_it(
    server: ServerProcess, session: str
) -> None:
    with streaming(server, COUNT, session, more={"X-On-Disconnect": "continue"}) as found:
        run_id = found.headers["x-run-id"]
    assert server.ended(run_id)["status"] == "success"
    until(lambda: "stream_end" in words(server, trace=run_id), "the stream has ended")
    assert words(server, trace=run_id) == ["stream_start", "stream_end"]


@pytest.mark.parametrize(("on_disconnect", "status"), [("cancel", "stopped"), ("continue", "running")])
def test_a_native_streams_run_goes_on_unless_it_was_asked_to_end(
    server: ServerProcess, on_disconnect: str, status: str
) -> None:
    body = {"input": "hi", "on_disconnect": on_disconnect}
    with server.http.stream("POST", "/agents/silent/stream", json=body) as found:
        run_id = found.headers["x-run-id"]
        next(found.iter_raw())
    if status == "stopped":
        assert server.ended(run_id)["reason"] == "client_disconnect"
    else:
        until(lambda: server.record(run_id)["status"] == "running", "it runs")
        assert not server.record(run_id, wait=0.5)["cancel_requested"]


def test_a_start_that_follows_nothing_knows_no_disconnect(http: httpx.Client) -> None:
    found = http.post("/agents/quick/start", json={"input": "hi", "on_disconnect": "cancel"})
    assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_body")


def test_parts_without_types_are_read_and_the_place_of_an_invalid_part_is_named(
    server: ServerProcess,
) -> None:
    def ask(content: Any) -> Any:
        body = {"messages": [{"role": "user", "content": content}], "model": "quick"}
        return server.http.post("/v1/chat/completions", json=body)

    assert ask([None, {"text": "one"}]).status_code == 200
    assert ask({"type": "text", "text": "one"}).status_code == 200
    answer = ask([{"text": "one"}, {"url": "x"}])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].content[1]")
    assert "needs its `type`" in answer.json()["error"]["message"]
