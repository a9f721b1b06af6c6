"""A run as a file that people read: Markdown, or one HTML file that shows it offline."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from html import escape

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from runstore.core import errors
from runstore.core.codec import RecordedEvent
from runstore.core.folds.passages import Passage, Passages
from runstore.core.printable import escaped
from runstore.core.records import record_of
from runstore.core.run import Run
from runstore.core.times import timestamp
from runstore.http.operations import Call, Operation, ResponseSpec
from runstore.http.requests import prefers
from runstore.http.schemas import RUN_ID, TEXT
from runstore.http.security.access import Access
from runstore.http.streaming.watched import WatchedAnswer
from runstore.store.runs import RunStore
from runstore.threads import Threads, asking

HTML, MARKDOWN = "text/html", "text/markdown"
BASE64 = re.compile(r"[A-Za-z0-9+/=]*")
TICKS = re.compile("`+")
# No text in the file can run or load anything.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
HTML_END = b"</body></html>\n"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"{POLICY}; sandbox; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}
STYLE = """
body { font: 15px/1.6 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  color-scheme: light dark }
article { border-top: 1px solid light-dark(#ddd, #333); padding: .6rem 0 }
header { color: light-dark(#666, #999); font-size: .85rem }
p.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; padding: .7rem;
  background: light-dark(#f6f6f8, #1b1e24); border-radius: 6px }
img { max-width: 100% }
"""


Form = Callable[[Passage], str]


class TranscriptRoutes:
    """The route below `/runs/{run_id}/transcript`.

    Args:
        threads: for decoding and writing, a page of events at a time.
    """

    tag = "runs"

    def __init__(self, store: RunStore, access: Access, threads: Threads) -> None:
        self._store = store
        self._access = access
        self._threads = threads

    @Operation(
        "GET",
        "/runs/{run_id}/transcript",
        parameters=(RUN_ID,),
        answers={
            200: ResponseSpec(
                description="the transcript; HTML if `Accept` prefers it",
                content={MARKDOWN: TEXT, HTML: TEXT},
                headers={"Cache-Control": {"const": "no-store"}},
            )
        },
        problems=(errors.RunPurged,),
    )
    async def read_transcript(self, call: Call[None]) -> Response:
        """The inputs, answers and tool calls of a run so far, as a file for people."""
        as_html = prefers(call.request, HTML, MARKDOWN)
        run_id = await self._access.readable(call.request, "export")
        found = await self._store.get(run_id, deleted=call.user.reads_all)
        suffix, media_type = ("html", HTML) if as_html else ("md", MARKDOWN)
        name = f'attachment; filename="{run_id}.{suffix}"'
        start, form, end = (
            (_html(found.run), _article, HTML_END) if as_html else (_markdown(found.run), _section, b"")
        )
        parts = self._parts(run_id, form)
        first = await anext(parts)  # a refusal comes before the answer begins
        headers = {**HEADERS, "Content-Disposition": name}
        return WatchedAnswer(
            _joined(start + first, parts, end),
            call.login,
            media_type=f"{media_type}; charset=utf-8",
            headers=headers,
        )

    async def _parts(self, run_id: str, form: Form) -> AsyncIterator[bytes]:
        """All passages of the run, a part for each page of events, and one for the text without an end."""
        passages, page = Passages(), await self._page(run_id, 0)
        part = partial(_part, passages, form)
        yield await self._threads.call(part, page)
        while page:
            page = await self._page(run_id, page[-1].seq)
            # The answer has begun: wait for a turn as long as it takes.
            yield await asyncio.wrap_future(self._threads.submit(partial(part, page), asking.get()))

    async def _page(self, run_id: str, after: int) -> list[RecordedEvent]:
        return await self._store.events(run_id, after=after, from_replica=True)


def _part(passages: Passages, form: Form, page: list[RecordedEvent]) -> bytes:
    """The text that a page of events adds to the transcript; an empty page ends it."""
    found = (
        [passage for event in page for passage in passages.add(record_of(event))] if page else passages.end()
    )
    return _encoded("".join(map(form, found)))


async def _joined(first: bytes, parts: AsyncIterator[bytes], last: bytes) -> AsyncGenerator[bytes, None]:
    yield first
    async for part in parts:
        yield part
    yield last


def _html(run: Run) -> bytes:
    title = escape(_title(run))
    facts = "<br>".join(map(escape, _facts(run)))
    return _encoded(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><p>{facts}</p>\n"
    )


def _markdown(run: Run) -> bytes:
    facts = "\n".join(f"- {_line(fact)}" for fact in _facts(run))
    return _encoded(f"# {_line(_title(run))}\n\n{facts}\n")


def _encoded(text: str) -> bytes:
    """Without characters that a terminal obeys, or that hide or reorder other text."""
    return escaped(text.replace("\r\n", "\n"), keep="\n\t").encode(errors="replace")


def _title(run: Run) -> str:
    return f"{run.agent_name}, run {run.run_id}"


def _facts(run: Run) -> list[str]:
    facts = {
        "status": run.status,
        "user": run.user_id,
        "session": run.session_id,
        "started": timestamp(run.created_at),
        "ended": None if run.completed_at is None else timestamp(run.completed_at),
        "tokens": run.usage.get("total_tokens"),
    }
    return [f"{name}: {value}" for name, value in facts.items() if value]


def _article(passage: Passage) -> str:
    parts = [f"<article><header>{escape(passage.heading)}</header>"]
    if passage.text:
        parts.append(f'<p class="text">{escape(passage.text)}</p>')
    if passage.value is not UNSET:
        parts.append(f"<pre>{escape(_json(passage.value))}</pre>")
    parts += [
        f'<img alt="" src="data:image/{image.format};base64,{image.data}">'
        for image in passage.images
        if BASE64.fullmatch(image.data)
    ]
    return "".join([*parts, "</article>\n"])


def _section(passage: Passage) -> str:
    parts = [f"## {_line(passage.heading)}"]
    if passage.text:
        parts.append(passage.text)
    if passage.value is not UNSET:
        parts.append(_fenced(_json(passage.value)))
    parts += [f"(an image, {image.format})" for image in passage.images]
    return "\n" + "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    """A block of code whose fence is longer than any in the text (CommonMark 0.31, 4.5)."""
    fence = "`" * max(3, 1 + max(map(len, TICKS.findall(text)), default=0))
    return f"{fence}json\n{text}\n{fence}"


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _line(text: str) -> str:
    return " ".join(text.split())
