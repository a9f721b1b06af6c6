"""A stand-in for model providers: it speaks their wire protocols on real loopback sockets, and can misbehave.

The name of the model in the request chooses its behaviour, so one server serves all tests. An unknown name
counts as the first one:

| Model | |
|---|---|
| `talks` | calls the first tool, if there is one, and then says what it heard; else says WORDS |
| `thinks` | reasons before it says WORDS |
| `stops-talking` | says two words and nothing more, until the client goes |
| `never-answers` | takes the request and sends not a byte |
| `resets` | says two words and resets the connection |
| `hangs-up` | says two words and closes the connection |
| `garbage` | sends 200 and what no protocol allows |
| `web-page` | sends 200 and a page for people, as a wrong address does |
| `status-N` | answers with this status and the provider's error |
| `recovers` | 429 to the first request of a conversation, then as `talks` |
"""

import asyncio
import json
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

from strands.tools.structured_output import DEFAULT_STRUCTURED_OUTPUT_PROMPT

from tests.models.protocols import WIRES, Answer, Wire

MODELS = (
    "talks", "thinks", "stops-talking", "never-answers", "resets", "hangs-up", "garbage", "web-page",
    "status-400", "status-401", "status-404", "status-429", "status-500", "recovers",
)  # fmt: skip
WORDS = ("The ", "answer ", "is ", "42.")
THOUGHTS = ("Let me ", "see. ")
REQUEST_ID = "request-id: req_1\r\n"  # the header of every answer
GARBAGE = b'\x00\xff{not json at all}}\n\ndata: {"half": \n\n'
PAGE = b"<!doctype html><title>Welcome</title><h1>It works!</h1>\n"


@dataclass
class Request:
    """A received request. `gone` is set when the client has closed the connection."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    sent: bytes
    gone: threading.Event = field(default_factory=threading.Event, compare=False)

    @property
    def text(self) -> str:
        return json.dumps(self.body, ensure_ascii=False)


class ModelServer:
    """Serves on a free port of 127.0.0.1, in a thread of its own."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._seen: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        started = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(started, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def heard(self, words: str) -> list[Request]:
        """The requests that contain these words, oldest first."""
        return [request for request in self.requests if words in request.text]

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, _Done):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, reader: Any, writer: asyncio.StreamWriter) -> None:
        wire = next((wire for wire in WIRES.values() if wire.path == request.path), None)
        model = request.body.get("model", "")
        model = model if model in MODELS else "talks"
        if wire is None:
            return await _send(writer, 404, "text/plain", b"nothing here")
        if model == "recovers" and not self._seen_before(request):
            model = "status-429"
        if model.startswith("status-"):
            status = int(model.removeprefix("status-"))
            return await _send(writer, status, "application/json", json.dumps(wire.failure(status)).encode())
        if model == "web-page":
            return await _send(writer, 200, "text/html", PAGE)
        if model == "never-answers":
            await _until_gone(request, reader)
        if model == "garbage":
            return await _stream(writer, wire, [GARBAGE])
        answer = Answer(WORDS, THOUGHTS) if model == "thinks" else _reaction(wire, request.body)
        parts = wire.parts(model, answer)
        if model in ("talks", "thinks", "recovers"):
            return await _stream(writer, wire, parts)
        spoken = next(n for n, part in enumerate(parts) if WORDS[1].encode() in part) + 1
        await _stream(writer, wire, parts[:spoken], ends=False)
        if model == "stops-talking":
            await _until_gone(request, reader)
        if model == "resets":
            _reset(writer)
        raise _Done

    def _seen_before(self, request: Request) -> bool:
        key = json.dumps(request.body["messages"])
        self._seen[key] += 1
        return self._seen[key] > 1


class _Done(Exception):
    """This connection serves no more requests."""


def _reaction(wire: Wire, body: dict[str, Any]) -> Answer:
    """A call of the first tool; when it has been called, its result. For an object: a call of the last."""
    tools, results = body.get("tools") or [], wire.tool_results(body)
    if DEFAULT_STRUCTURED_OUTPUT_PROMPT in json.dumps(body["messages"][-1]):
        tools, results = tools[-1:], []
    if results:
        return Answer(("The tool said ", *results[-1:]))
    if tools:
        name = tools[0].get("name") or tools[0]["function"]["name"]
        return Answer(call=(name, {"a": 19, "b": 23}))
    return Answer(WORDS)


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(head[0].split()[1].partition("?")[0], headers, json.loads(body or b"{}"), body)


async def _send(writer: asyncio.StreamWriter, status: int, kind: str, body: bytes) -> None:
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n{REQUEST_ID}"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, wire: Wire, parts: list[bytes], *, ends: bool = True) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {wire.content_type}\r\n{REQUEST_ID}"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    for part in parts:
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
        await asyncio.sleep(0)  # each part in a segment of its own, as a model would send it
    if ends:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _until_gone(request: Request, reader: asyncio.StreamReader) -> None:
    try:
        await reader.read()
    finally:
        request.gone.set()
    raise _Done


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the client's next read fail with ECONNRESET."""
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
