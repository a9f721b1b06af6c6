"""A run's stream as OpenAI's chunks: one for each piece of the answer, with its event's seq as the SSE id."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

import msgspec
import structlog
from msgspec import UNSET

from runstore.core.errors import UNAVAILABLE_RETRY_S, LogUnavailable, RunPurged, RunstoreError
from runstore.core.events import (
    SUPERSEDED,
    Cancelled,
    CancelRequested,
    Completed,
    Discarded,
    Failed,
    InputRequested,
    Place,
    Started,
    Token,
    Usage,
)  # fmt: skip
from runstore.core.folds.transcript import RESULT, SEPARATOR, speaker_of
from runstore.core.ports import EventFilter
from runstore.core.records import EventRecord, record_of
from runstore.core.run import Run, add_usage
from runstore.feed.tail import Tail
from runstore.http.openai.answer import ANSWER_EVENTS, ANSWER_TYPES, MESSAGE_ENDS, ChatAnswer, is_own
from runstore.http.openai.objects import (
    Chunk,
    ChunkChoice,
    Delta,
    ErrorResponse,
    FinishReason,
    completion_id,
    error_object,
    finish_reason,
    usage_of,
)
from runstore.http.openai.repeats import Kind, Piece, SentText
from runstore.http.requests import Schema
from runstore.http.schemas import component, within
from runstore.http.streaming.frames import ProtocolMessage, ReadEarlier, Translation, message_frame

CHAT_EVENTS = EventFilter(types=ANSWER_TYPES | {CancelRequested.type, InputRequested.type, Usage.type})
ENDING_EVENTS = EventFilter(types=frozenset({CancelRequested.type, InputRequested.type}))
DONE = b"[DONE]"
MAX_TOKENS = "max_tokens"  # a stop reason, and the code of a run that failed for it
INPUT_REQUIRED = "input_required"  # the code of a run that asks a person
STOPPED = "stopped"  # the code of a run that was stopped

CHUNKS: Schema = {  # see STREAM
    "type": "object",
    "description": "One server-sent event of a chat completion. A line `:` is a heartbeat.",
    "properties": {
        "id": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "the seq of the run's event"},
        "data": {
            "type": "string",
            "anyOf": [
                within(component(Chunk)),
                {
                    **within(component(ErrorResponse)),
                    "description": "the last event of a run that did not succeed",
                },
                {"const": DONE.decode(), "description": "the last event of a run that succeeded"},
            ],
        },
    },
    "required": ["data"],
}

log = structlog.get_logger(__name__)


class StreamLines:
    """The log lines of one chat request. `trace` and `stream_id` are the run."""

    def __init__(self, run_id: str, session_id: str | None) -> None:
        self._fields = {"trace": run_id, "stream_id": run_id, "session": session_id}
        self._cancelled = False

    def started(self) -> None:
        log.info("stream_start", **self._fields)

    def cancelled(self, reason: str) -> None:
        """Log that the run must stop; only the first reason counts."""
        if self._cancelled:
            return
        self._cancelled = True
        log.info("stream_cancelled", **self._fields, reason=reason)

    def superseded(self, *, forced: bool) -> None:
        """Note that the run that superseded this one may start."""
        if forced:
            log.warning("prev_stream_forced", **self._fields)
        else:
            log.info("prev_stream_finished_cleanly", **self._fields)

    def ended(self) -> None:
        log.info("stream_end", **self._fields)


class ChatChunks:
    """Turns the events of one run into chunks.

    Args:
        plain: for a client that knows only OpenAI's format: it cannot drop text, and cannot answer questions.
            If it has text that does not count and is not repeated, or if the run asks a person, the stream
            ends with an error, so that the text is not taken for the answer. Reasoning is not part of the
            answer: other reasoning follows after a blank line.
    """

    def __init__(self, run: Run, *, include_usage: bool = False, plain: bool = False) -> None:
        self.replaced = False  # the stream has ended, as the client's text is not the answer
        self.asks = False  # the stream has ended, as the run asks a person
        self._plain = plain
        self._run = run
        self._include_usage = include_usage
        self._answer = ChatAnswer()
        self._repeats = SentText()
        self._thoughts = SentText()  # the reasoning that a plain client has
        self._usage: dict[str, int] = {}

    @property
    def over(self) -> bool:
        """Whether the stream has ended before its run."""
        return self.replaced or self.asks

    def messages(self, event: EventRecord) -> list[ProtocolMessage]:
        """The chunks of an event."""
        if self.over:
            return []
        if event.type == Token.type:  # nearly all events are
            self._answer.add(event)
            content = self._answer.content
            messages = self._send(event.seq, speaker_of(event.data), "content", content) if content else ()
            return self._until_replaced(messages)
        return self._until_replaced(self._messages(event))

    def pass_over(self, event: EventRecord) -> None:
        """Take an event that the client has: it only updates the state for later chunks."""
        if event.type != Token.type:
            self._until_replaced(self._messages(event))
            return
        self._answer.add(event)
        if content := self._answer.content:
            text = self._repeats.send(event.seq, speaker_of(event.data), Piece("content", content))
            if text is None:
                self._drop(event.seq)

    def _until_replaced(self, messages: Iterable[ProtocolMessage]) -> list[ProtocolMessage]:
        sent: list[ProtocolMessage] = []
        for message in messages:
            sent.append(message)
            if self.over:
                break
        return sent

    def _messages(self, event: EventRecord) -> Iterator[ProtocolMessage]:
        if event.ends:
            yield from self._ending(event)
        elif event.type == InputRequested.type:
            if self._plain:
                self.asks = True
                yield ProtocolMessage(None, error_object(*input_required(self._run)))
        elif event.type == Usage.type:
            self._usage = add_usage(self._usage, msgspec.convert(event.data, Usage))
        elif event.type != CancelRequested.type:
            self._answer.add(event)
            if event.type == Started.type and self._plain:
                yield ProtocolMessage(event.seq, self._chunk(Delta(role="assistant", content="")))
                keep = event.data.get("discard_after_seq")
                if keep is not None:
                    yield from self._take_back(event.seq, keep + 1)
            elif event.type == Started.type:
                self._repeats = SentText()
                first = self._chunk(Delta(role="assistant", content=""))
                again = event.data.get("discard_after_seq", UNSET)
                yield ProtocolMessage(event.seq, msgspec.structs.replace(first, discard_after_seq=again))
            elif event.type == Discarded.type and is_own(event):
                yield from self._take_back(event.seq, event.data["from_seq"], speaker_of(event.data))
            yield from self._send_new(event.seq, speaker_of(event.data))
            if event.type in MESSAGE_ENDS and is_own(event):
                yield from self._end(event.seq)

    def _send_new(self, seq: int, speaker: Place) -> Iterator[ProtocolMessage]:
        if self._answer.reasoning:
            yield from self._send(seq, speaker, "reasoning_content", self._answer.reasoning)
        if self._answer.content:
            yield from self._send(seq, speaker, "content", self._answer.content)

    def _send(self, seq: int, speaker: Place, kind: Kind, content: str) -> Iterator[ProtocolMessage]:
        apart = self._plain and kind == "reasoning_content"
        text = (self._thoughts if apart else self._repeats).send(seq, speaker, Piece(kind, content))
        if text is None:
            yield self._think_again(seq) if apart else self._drop(seq)
        elif text:
            delta = Delta(content=text) if kind == "content" else Delta(reasoning_content=text)
            yield ProtocolMessage(seq, self._chunk(delta))

    def _take_back(self, seq: int, from_seq: int, speaker: Place | None = None) -> Iterator[ProtocolMessage]:
        if not self._thoughts.take_back(from_seq, speaker):
            yield self._think_again(seq)
        if not self._repeats.take_back(from_seq, speaker):
            yield self._drop(seq)

    def _end(self, seq: int) -> Iterator[ProtocolMessage]:
        """The message is complete."""
        if not self._thoughts.end():
            yield self._think_again(seq)
        if not self._repeats.end():
            yield self._drop(seq)

    def _think_again(self, seq: int) -> ProtocolMessage:
        """Separate new reasoning from the reasoning that a plain client has and cannot drop."""
        _keep, _content, reasoning = self._thoughts.drop()
        return ProtocolMessage(
            seq, self._chunk(Delta(reasoning_content=SEPARATOR + reasoning.removeprefix(SEPARATOR)))
        )

    def _drop(self, seq: int) -> ProtocolMessage:
        """Make the client drop discarded text, in one message with its replacement."""
        if self._plain:
            self.replaced = True
            return ProtocolMessage(None, error_object(*ANSWER_REPLACED))
        keep, content, reasoning = self._repeats.drop()
        chunk = self._chunk(Delta(content=content or None, reasoning_content=reasoning or None))
        return ProtocolMessage(seq, msgspec.structs.replace(chunk, discard_after_seq=keep))

    def _ending(self, event: EventRecord) -> Iterator[ProtocolMessage]:
        if event.type == Completed.type:
            result, usage = event.data["result"], event.data.get("usage") or self._usage
        elif is_cut(event.type, event.data.get("code")):
            result, usage = {"stop_reason": MAX_TOKENS}, self._usage
        else:
            yield ProtocolMessage(event.seq, error_object(*ending_error(_ended(self._run, event))))
            return
        self._answer.end(event.seq, result)
        yield from self._send_new(event.seq, RESULT)
        yield from self._end(event.seq)
        reason: FinishReason = "length" if self._answer.cut else finish_reason(result)
        yield ProtocolMessage(event.seq, self._chunk(Delta(), reason))
        if self._include_usage:
            yield ProtocolMessage(
                event.seq, msgspec.structs.replace(self._chunk(None), usage=usage_of(usage))
            )
        yield ProtocolMessage(None, msgspec.Raw(DONE))

    def _chunk(self, delta: Delta | None, finish_reason: FinishReason | None = None) -> Chunk:
        run = self._run
        return Chunk(
            id=completion_id(run), created=run.created_at // 1000, model=run.agent_name,
            choices=[] if delta is None else [ChunkChoice(delta, finish_reason=finish_reason)],
            usage=None if self._include_usage else UNSET,
        )  # fmt: skip


class ChatTail:
    """A tail whose frames are chunks; it reports the run's cancellation and ending to `lines`.

    Args:
        earlier: reads the events before the tail's first one. They are read without output, as later chunks
            depend on them.
    """

    def __init__(
        self,
        tail: Tail,
        chunks: ChatChunks,
        lines: StreamLines | None = None,
        *,
        earlier: ReadEarlier | None = None,
    ) -> None:
        self._tail = tail
        self._chunks = chunks
        self._lines = lines
        self._earlier = earlier

    async def frames(self) -> AsyncIterator[bytes]:
        """As `native`. A stream that ends before its run says so, as it must not seem complete."""
        try:
            async for _ in self._catch_up():
                yield b""
        except RunPurged:
            yield message_frame(ProtocolMessage(None, error_object(*PURGED)))
            return
        async for events in self._tail.events():
            if not events:
                yield b""
            messages: list[ProtocolMessage] = []
            for event in map(record_of, events):
                self._tell(event)
                messages += self._chunks.messages(event)
            if messages:
                yield b"".join(map(message_frame, messages))
            if self._chunks.over:
                return
        if self._tail.purged:
            yield message_frame(ProtocolMessage(None, error_object(*PURGED)))
        elif not self._tail.ended:
            yield message_frame(ProtocolMessage(None, error_object(*SERVER_STOPPING)))

    async def _catch_up(self) -> AsyncIterator[None]:
        """Read the events before the tail's without output; yields while the log cannot be read."""
        seq = 0
        while self._earlier is not None:
            try:
                page = await self._earlier(seq)
            except LogUnavailable:
                yield
                await asyncio.sleep(UNAVAILABLE_RETRY_S)
                continue
            if not page:
                return
            for event in page:
                self._chunks.pass_over(record_of(event))
            seq = page[-1].seq

    def _tell(self, event: EventRecord) -> None:
        if self._lines is None:
            return
        if event.type == CancelRequested.type:
            self._lines.cancelled(event.data["reason"])
        elif event.type == Cancelled.type and event.data["reason"] == SUPERSEDED:
            self._lines.superseded(forced=event.data.get("forced", False))


def _chunks(tail: Tail, run: Run, earlier: ReadEarlier) -> AsyncIterator[bytes]:
    return ChatTail(tail, ChatChunks(run), earlier=earlier).frames()


CHAT = Translation(only=CHAT_EVENTS, earlier=ANSWER_EVENTS, frames=_chunks)


SERVER_STOPPING = (
    503,
    "server_stopping",
    "the server stops; the run goes on: resume at /runs/{X-Run-Id}/stream?format=openai with Last-Event-ID",
)
ANSWER_REPLACED = (
    409,
    "answer_replaced",
    "the streamed text is not the answer: the model call failed and was made again, or its answer was "
    "rejected or redacted; the run goes on: its answer is at /runs/{X-Run-Id}, and its text at "
    "/runs/{X-Run-Id}/stream?format=openai",
)
PURGED = (410, RunPurged.code, "the run was purged while it was read: its events were removed")


def input_required(run: Run) -> tuple[int, str, str]:
    """The status, code and message for a client that cannot answer the run's questions."""
    path = f"/runs/{run.run_id}/inputs"
    message = (
        f"the run asks a person, and waits: read its questions at {path}, answer them there, and it goes on"
    )
    return 409, INPUT_REQUIRED, message


def is_cut(ending: str, code: str | None) -> bool:
    """Whether a run failed because its token limit cut an answer; for a chat this is a cut answer."""
    return ending == Failed.type and code == MAX_TOKENS


def ending_error(run: Run) -> tuple[int, str, str]:
    """The status, code and message of a run that has ended and did not succeed."""
    if run.status == "error":
        return 500, run.error_code or RunstoreError.code, run.error or ""
    if run.reason == SUPERSEDED:
        return 409, SUPERSEDED, "a newer request of the same session replaced this one"
    return 409, STOPPED, f"the run was stopped: {run.reason}"


def _ended(run: Run, event: EventRecord) -> Run:
    change = msgspec.structs.replace
    if event.type == Cancelled.type:
        return change(run, status="stopped", reason=event.data["reason"])
    code, message = event.data.get("code"), event.data.get("message", f"ended by {event.type}")
    return change(run, status="error", error_code=code, error=message)
