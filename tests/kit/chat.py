"""A hand-written client of OpenAI's chat API: requests, chunks, and the server's log lines."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec

from tests.kit.server import ServerProcess

URL = "/v1/chat/completions"
BEARER = {"Authorization": "Bearer devkey"}


def ask(server: ServerProcess, prompt: str, session: str | None = None, **body: Any) -> httpx.Response:
    """One request without `stream`; its answer, good or not."""
    return server.http.post(URL, json={"prompt": prompt, **body}, headers=headers(session))


def answer(server: ServerProcess, prompt: str, session: str | None = None, **body: Any) -> dict[str, Any]:
    """The completion that a request comes to."""
    found = ask(server, prompt, session, **body)
    assert found.status_code == 200, found.text
    completion: dict[str, Any] = found.json()
    return completion


def text_of(completion: dict[str, Any]) -> str:
    text: str = completion["choices"][0]["message"]["content"]
    return text


@contextmanager
def streaming(
    server: ServerProcess,
    prompt: str,
    session: str | None = None,
    more: dict[str, str] | None = None,
    **body: Any,
) -> Iterator[httpx.Response]:
    given = {"prompt": prompt, "stream": True, **body}
    with server.http.stream("POST", URL, json=given, headers={**headers(session), **(more or {})}) as found:
        assert found.status_code == 200, found.read()
        yield found


def stream(
    server: ServerProcess, prompt: str, session: str | None = None, **body: Any
) -> list[tuple[int, Any]]:
    with streaming(server, prompt, session, **body) as found:
        return list(chunks(found))


def chunks(found: httpx.Response) -> Iterator[tuple[int, Any]]:
    """Each frame's SSE id and content; 0 and "[DONE]" for the last one."""
    seq = 0
    for line in found.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            seq = int(value)
        elif name == "data" and value == "[DONE]":
            yield 0, value
        elif name == "data":
            yield seq, msgspec.json.decode(value)


def said(found: list[tuple[int, Any]]) -> list[str]:
    """The text of each chunk that has any."""
    contents = [chunk for _, chunk in found if isinstance(chunk, dict) and chunk.get("choices")]
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in contents]
    return [text for text in texts if text]


def headers(session: str | None) -> dict[str, str]:
    return BEARER if session is None else {**BEARER, "X-Session-Id": session}


def lines(server: ServerProcess, **wanted: str) -> list[tuple[str, dict[str, str]]]:
    """The server's log lines about streams that have these fields: first words, and all fields."""
    found = []
    for line in server.log.splitlines():
        event, _, rest = line.partition(" ")
        if event.startswith(("stream_", "prev_stream_")):
            fields = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', rest))
            if wanted.items() <= fields.items():
                found.append((event, fields))
    return found


def words(server: ServerProcess, **wanted: str) -> list[str]:
    return [event for event, _ in lines(server, **wanted)]
