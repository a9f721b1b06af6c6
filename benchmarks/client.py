"""A reader of event streams that costs little, so that the server is what is measured."""

import asyncio
import re
import time
from dataclasses import dataclass, field
from datetime import datetime

TOKEN = b"event: llm.token\n"
ENDING = re.compile(rb"event: lifecycle\.(completed|failed|cancelled)\n")
AT = re.compile(rb'"at":"([0-9T:.-]+)Z"')
# Between two chunks of a body, also amid an event. Events themselves have no \r.
FRAMING = re.compile(rb"\r\n[0-9a-f]+\r\n")
OVERLAP = 64  # bytes kept for a pattern that two reads share


@dataclass
class Stream:
    """What one reader saw. Times are `time.time()`."""

    asked_at: float = 0.0
    first_token_at: float = 0.0
    ended_at: float = 0.0
    tokens: int = 0
    events: int = 0
    delays: list[float] = field(default_factory=list)  # seconds from an event's `at` to its arrival


def _authorization(key: str) -> bytes:
    return f"Authorization: Bearer {key}\r\n".encode() if key else b""


async def follow(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    delays: bool = False,
    key: str = "",
    after: int = 0,
    token: bytes = TOKEN,
    closes: bool = False,
) -> Stream:
    """Send a request, with an API key if there is one, and read its event stream to the end of the run.

    Args:
        after: the seq that was seen last; 0: none.
        token: occurs once in each event with a token.
        closes: ask the server to close the connection at the end, which the stream itself does not mark.
    """
    seen = Stream(asked_at=time.time())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(
        b"%b %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"%b%bConnection: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (
            method.encode(),
            path.encode(),
            _authorization(key),
            b"Last-Event-ID: %d\r\n" % after if after else b"",
            b"close" if closes else b"keep-alive",
            len(body),
            body,
        )
    )
    kept = b""
    while part := await reader.read(1 << 18):
        now = time.time()
        text, known = FRAMING.sub(b"", kept + part), FRAMING.sub(b"", kept)
        fresh = text.count(token) - known.count(token)
        seen.events += text.count(b"\nevent: ") - known.count(b"\nevent: ")
        if fresh and not seen.tokens:
            seen.first_token_at = now
        seen.tokens += fresh
        if delays and (stamps := AT.findall(part)):
            seen.delays.append(now - datetime.fromisoformat(stamps[-1].decode() + "+00:00").timestamp())
        if not closes and ENDING.search(text):
            break
        kept = (kept + part)[-OVERLAP:]
    seen.ended_at = time.time()
    writer.close()
    return seen
