"""The requests to a run's models, read back from the log."""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from runstore.core.codec import RecordedEvent, decode
from runstore.core.errors import RequestNotFound, RunPurged
from runstore.core.events import Context, Queued
from runstore.core.model_requests import (
    REQUEST_EVENTS,
    MessagePlace,
    MessageSource,
    ModelRequest,
    RecordedRequest,
    RequestFold,
    RequestPage,
    RequestSummary,
)
from runstore.core.pages import pages
from runstore.core.ports import EventFilter, LogReader
from runstore.core.times import timestamp
from runstore.runtime.memory.held import HOLDING, held_in
from runstore.store.large_reads import CountedReader

MAX_READ_BYTES = 64 << 20  # bytes of the events that hold one request's content, and of their rows
MAX_LISTED = 1_000  # requests of one page
MAX_EARLIER = 200  # earlier runs that one request refers to: as many as a session's memory reads
_CONTENT = EventFilter(HOLDING | {Context.type})
_QUEUED = EventFilter(frozenset({Queued.type}))
REDACTED, DELETED, PURGED, TOO_LARGE, MISSING = "redacted", "deleted", "purged", "too_large", "missing"
WITHHELD = "withheld"

Contents = dict[MessagePlace, Any]  # a message's place → the message


async def list_requests(
    log: LogReader, run_id: str, *, after: int, limit: int, seq: int | None = None
) -> RequestPage:
    """A page of a run's model calls, without their content.

    Args:
        seq: only the call whose `llm.request` has it.

    Raises:
        RunPurged
    """
    page: list[RequestSummary] = []
    async for recorded in _requests(log, run_id):
        if recorded.n > after and seq in (None, recorded.seq):
            if len(page) == limit:
                return RequestPage(page, page[-1].n)
            page.append(_summary(recorded))
    return RequestPage(page, None)


async def read_request(log: LogReader, run_id: str, n: int, *, reads_session: bool) -> ModelRequest:
    """The n-th model call of a run, with its content.

    Args:
        reads_session: whether to read the messages of the session's earlier runs.

    Raises:
        RequestNotFound: the run has fewer of them.
        RunPurged
        TooLarge: its content is larger than MAX_READ_BYTES.
    """
    count = 0
    async for recorded in _requests(log, run_id):
        count = recorded.n
        if count == n:
            return await _with_content(log, run_id, recorded, reads_session)
    raise RequestNotFound(f"run {run_id} has {count} model requests, and no request {n}")


async def _requests(log: LogReader, run_id: str) -> AsyncIterator[RecordedRequest]:
    folding = RequestFold()
    async for page in pages(log, run_id, only=REQUEST_EVENTS):
        for event in page:
            if (recorded := folding.add(event)) is not None:
                yield recorded


async def _with_content(
    log: LogReader, run_id: str, recorded: RecordedRequest, reads_session: bool
) -> ModelRequest:
    reading = _Reading(log, run_id, recorded, reads_session)
    await reading.read()
    request = recorded.request
    messages, sources = reading.messages()
    contents = [
        reading.content(digest)
        for digest in (request.parameters, request.system, request.tools, request.output_schema)
    ]
    parameters, system, tools, output_schema = contents
    return ModelRequest(
        **_named(recorded), parameters=parameters, system=system, tools=tools, output_schema=output_schema,
        tool_choice=request.tool_choice, cache_blocks=request.cache_blocks, state=request.state,
        messages=messages, sources=sources, complete=not reading.missing and request.left_out is None,
    )  # fmt: skip


class _Reading:
    """Reads the content that one request refers to."""

    def __init__(self, log: LogReader, run_id: str, recorded: RecordedRequest, reads_session: bool) -> None:
        self._log = log
        self._reader = CountedReader(log, MAX_READ_BYTES, limit="request_bytes", what="the request")
        self._reads_session = reads_session
        self._run_id = run_id
        self._recorded = recorded
        self._contents: Contents = {}
        self._contexts: dict[str, tuple[int, Context]] = {}
        self._gone: dict[str | None, str] = {}  # run → why its messages cannot be read
        self.missing = False

    async def read(self) -> None:
        request = self._recorded.request
        needed = {request.parameters, request.system, request.tools, request.output_schema}
        by_run: dict[str | None, set[MessagePlace]] = {}
        for held in self._recorded.messages:
            if held.context is None:
                by_run.setdefault(held.run_id, set()).add(held)
            else:
                needed.add(held.context)
        own = await self._reader.read(self._run_id, upto=self._recorded.seq, only=_CONTENT)
        for event in own:
            if event.type == Context.type:
                context = decode(event.type, event.version, event.data)
                if isinstance(context, Context) and context.digest in needed:
                    self._contexts.setdefault(context.digest, (event.seq, context))
        self._find(None, own, by_run.pop(None, set()))
        session = await self._session(self._run_id) if by_run and self._reads_session else None
        for number, (run_id, wanted) in enumerate(by_run.items()):
            if not self._reads_session:
                self._gone[run_id] = WITHHELD
            elif session is None or number >= MAX_EARLIER:
                self._gone[run_id] = MISSING
            else:
                await self._read_earlier(run_id or "", session, wanted)

    async def _session(self, run_id: str) -> tuple[str, str] | None:
        """The user and the id of a run's session. Raises RunPurged."""
        for event in await self._log.read(run_id, upto=1, limit=1, only=_QUEUED):
            queued = decode(event.type, event.version, event.data)
            if isinstance(queued, Queued) and queued.session_id is not None:
                return queued.user_id, queued.session_id
        return None

    async def _read_earlier(self, run_id: str, session: tuple[str, str], wanted: set[MessagePlace]) -> None:
        """Read a run of the session; a process that lies may name another user's run."""
        head = await self._log.head(run_id)
        if head is None or head.purged or head.deleted:
            self._gone[run_id] = DELETED if head is not None and head.deleted else PURGED
            return
        try:
            if await self._session(run_id) != session:
                self._gone[run_id] = MISSING
                return
            upto = max(held.seq for held in wanted)
            self._find(run_id, await self._reader.read(run_id, upto=upto, only=_CONTENT), wanted)
        except RunPurged:
            self._gone[run_id] = PURGED

    def _find(self, run_id: str | None, events: Iterable[RecordedEvent], wanted: set[MessagePlace]) -> None:
        for seq, number, message in held_in(events):
            if (held := MessagePlace(seq, number, run_id)) in wanted:
                self._contents[held] = message

    def messages(self) -> tuple[list[Any], list[MessageSource]]:
        found = list(self._messages())
        return [message for message, _ in found], [source for _, source in found]

    def _messages(self) -> Iterator[tuple[Any, MessageSource]]:
        for held in self._recorded.messages:
            if held.context is not None:
                yield self._context(held.context)
            elif held in self._contents:
                yield self._contents[held], MessageSource(seq=held.seq, run_id=held.run_id)
            else:
                self.missing = True
                why = self._gone.get(held.run_id, REDACTED)
                yield None, MessageSource(seq=held.seq, run_id=held.run_id, left_out=why)

    def _context(self, digest: str) -> tuple[Any, MessageSource]:
        seq, context = self._contexts.get(digest, (0, None))
        if context is None or context.size:
            self.missing = True
            why = MISSING if context is None else TOO_LARGE
            size = context.size if context is not None else 0
            return None, MessageSource(seq=seq, left_out=why, size=size, sha256=digest)
        return context.content, MessageSource(seq=seq)

    def content(self, digest: str | None) -> Any:
        """The content of a context."""
        return None if digest is None else self._context(digest)[0]


def _summary(recorded: RecordedRequest) -> RequestSummary:
    return RequestSummary(**_named(recorded), messages=len(recorded.messages))


def _named(recorded: RecordedRequest) -> dict[str, Any]:
    request = recorded.request
    return {
        "n": recorded.n, "seq": recorded.seq, "at": timestamp(recorded.at), "agent": request.agent,
        "call_id": request.call_id, "model": request.model, "provider": request.provider,
        "left_out": request.left_out,
    }  # fmt: skip
