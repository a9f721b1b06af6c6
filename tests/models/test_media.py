"""Input as content blocks: media come as base64, reach the model as bytes, and are refused by their path."""

from base64 import b64encode
from typing import Any

import pytest

from runstore.core.codec import MAX_EVENT_BYTES
from runstore.core.content import MAX_BLOCKS
from tests.kit.frames import said
from tests.kit.server import ServerProcess
from tests.models.conftest import PROVIDERS
from tests.models.standins import WORDS, ModelServer

PNG = b64encode(bytes(range(256)) * 40).decode()  # 10 KiB that JSON cannot hold without base64
IMAGE = {"image": {"format": "png", "source": {"bytes": PNG}}}
PDF = {"document": {"format": "pdf", "name": "report", "source": {"bytes": PNG}}}
VIDEO = {"video": {"format": "mp4", "source": {"bytes": PNG}}}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_image_reaches_the_model_byte_for_byte(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    question = f"What do you see, {provider}?"
    run_id = server.begin(f"{provider}-talks", [{"text": question}, IMAGE])  # type: ignore[arg-type]
    assert server.ended(run_id)["result"]["text"] == "".join(WORDS)
    (request,) = models.heard(question)
    assert PNG in request.text


@pytest.mark.parametrize("declared", ["jpeg", "webp"])
@pytest.mark.parametrize(
    ("beginning", "format"),
    [
        (b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff\xe0", "jpeg"), (b"GIF89a", "gif"), (b"GIF87a", "gif"),
        (b"RIFF\n\x00\x00\x00WEBPVP8 ", "webp"),
    ],
)  # fmt: skip
def test_the_model_gets_an_image_with_the_format_that_its_bytes_show(
    server: ServerProcess, models: ModelServer, beginning: bytes, format: str, declared: str
) -> None:
    question = f"Is it {format}, {beginning.hex()}, or {declared}?"
    data = b64encode(beginning + bytes(20)).decode()
    image = {"image": {"format": declared, "source": {"bytes": data}}}
    run_id = server.begin("anthropic-talks", [{"text": question}, image])  # type: ignore[arg-type]
    assert server.ended(run_id)["status"] == "success"
    assert server.events(run_id)[0]["data"]["input"][1] == image
    (request,) = models.heard(question)
    source = request.body["messages"][0]["content"][1]["source"]
    assert (source["media_type"], source["data"]) == (f"image/{format}", data)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_document_reaches_the_model_with_its_name(
    server: ServerProcess, models: ModelServer, provider: str
) -> None:
    question = f"Sum it up, {provider}"
    server.ended(server.begin(f"{provider}-talks", [{"text": question}, PDF]))  # type: ignore[arg-type]
    (request,) = models.heard(question)
    assert PNG in request.text
    assert '"report"' in request.text


@pytest.mark.parametrize("provider", PROVIDERS)
def test_content_that_a_provider_cannot_send_is_an_invalid_input(
    server: ServerProcess, provider: str
) -> None:
    record = server.ended(server.begin(f"{provider}-talks", [{"text": "Watch"}, VIDEO]))  # type: ignore[arg-type]
    assert (record["status"], record["error_code"]) == ("error", "invalid_input")
    assert "video" in record["error"]


def test_the_scripted_model_answers_to_the_texts(server: ServerProcess) -> None:
    blocks: Any = [{"text": "one two"}, IMAGE, {"text": "three"}]
    assert said(server.frames(server.begin("scripted", blocks))).split() == ["one", "two", "three"]


def test_the_log_keeps_an_input_as_it_came(server: ServerProcess) -> None:
    blocks: Any = [{"text": "one"}, IMAGE, PDF, VIDEO]
    events = server.events(server.begin("scripted", blocks))
    assert events[0]["data"]["input"] == blocks


REFUSED: list[tuple[str, Any, str]] = [
    ("no block", [], "$.input"),
    ("too many blocks", [{"text": "a"}] * (MAX_BLOCKS + 1), "$.input"),
    ("no object", ["text"], "$.input[0]"),
    ("an empty block", [{"text": "a"}, {}], "$.input[1]"),
    ("two in one", [{"text": "a", **IMAGE}], "$.input[0]"),
    ("an unknown kind", [{"audio": {}}], "$.input[0]"),
    ("an empty text", [{"text": ""}], "$.input[0].text"),
    ("a text that is a number", [{"text": 5}], "$.input[0].text"),
    ("an unknown format", [{"image": {**IMAGE["image"], "format": "bmp"}}], "$.input[0].image.format"),
    ("a document without a name", [{"document": {**IMAGE["image"], "format": "pdf"}}], "$.input[0].document"),
    ("an unknown field", [{"image": {**IMAGE["image"], "size": 1}}], "$.input[0].image"),
    ("no source", [{"image": {"format": "png"}}], "$.input[0].image"),
    ("another source", [{"image": {"format": "png", "source": {"url": "u"}}}], "$.input[0].image.source"),
    ("no bytes", [{"video": {"format": "mp4", "source": {"bytes": ""}}}], "$.input[0].video.source.bytes"),
    ("no base64", [{"image": {"format": "png", "source": {"bytes": "*"}}}], "$.input[0].image.source.bytes"),
    (
        "a data URL",
        [{"image": {"format": "png", "source": {"bytes": f"data:image/png;base64,{PNG}"}}}],
        "$.input[0].image.source.bytes",
    ),
]


@pytest.mark.parametrize(("input", "path"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_a_bad_block_is_refused_by_its_path(server: ServerProcess, input: Any, path: str) -> None:
    answer = server.http.post("/agents/scripted/start", json={"input": input})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid_body"
    assert error["message"].endswith(f"at `{path}`")


def test_media_beyond_the_size_of_an_event_are_refused(server: ServerProcess) -> None:
    big = {"image": {"format": "png", "source": {"bytes": b64encode(bytes(MAX_EVENT_BYTES)).decode()}}}
    answer = server.http.post("/agents/scripted/start", json={"input": [big]})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["limit"]) == (413, "limit_exceeded", "input_bytes")
