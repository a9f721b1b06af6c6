"""Questions of runs to people: list them, answer them, and add messages to a run under way."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from runstore.core.codec import check_depth, json_size
from runstore.core.errors import (
    Busy,
    InputClosed,
    InputNotFound,
    InvalidAnswer,
    RunClosed,
    TooLarge,
    WrongExpectedSeq,
)
from runstore.core.events import InputAdded, InputGiven, InputRequested
from runstore.core.inputs import NULL, Input, answered, fold_inputs
from runstore.core.pages import pages
from runstore.core.ports import EventFilter, Head, LogReader, LogWriter
from runstore.core.run import Actor
from runstore.core.times import now_ms
from runstore.runtime.attempts.open_inputs import OpenInputs
from runstore.runtime.catalog.output_schema import schema_warnings
from runstore.threads import WAIT_S, Threads

MAX_ANSWER_BYTES = 256 << 10  # bytes of an answer as JSON: half of an event, which may repeat the arguments
MAX_ADDED_BYTES = 512 << 10  # bytes of an added message as JSON: half of an event, which repeats the input
ANSWER_TRIES = 20  # tries per answer while others append to the run
MAX_PAGE_BYTES = 256 << 10  # bytes as JSON of the requests and answers of a page, except of its first
CHECKS = 2  # answers checked against their schemas at once: a check takes a whole core

_REQUESTED = EventFilter(types=frozenset({InputRequested.type}))
_GIVEN = EventFilter(types=frozenset({InputGiven.type}))


class Log(LogReader, LogWriter, Protocol):
    """The part of the log that answers need."""


class InputPage(Struct, frozen=True):
    """Some requests of a run in their order; `next`: the seq after which the others follow."""

    inputs: Sequence[Input]
    next: int | None


class InputStore:
    """The requests for input of the runs in a log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._threads = Threads("runstore-answer", CHECKS, share=CHECKS - 1, wait_s=WAIT_S)

    async def page(self, run_id: str, *, after: int, limit: int) -> InputPage:
        """The requests with a greater seq than `after`, open and answered ones; also bounded in bytes.

        Raises:
            RunPurged
        """
        requests = await self._log.read(run_id, after=after, limit=limit, only=_REQUESTED)
        requests = [event for event in requests if not event.ends]  # an ending passes every filter
        if not requests:
            return InputPage([], None)
        inputs = fold_inputs(requests)
        async for given in pages(self._log, run_id, after=requests[0].seq, only=_GIVEN):
            inputs = _first(fold_inputs(given, inputs), MAX_PAGE_BYTES)
            if all(each.given is not None for each in inputs.values()):
                break
        last = max(each.seq for each in inputs.values())
        more = await self._log.read(run_id, after=last, limit=1, only=_REQUESTED)
        return InputPage(list(inputs.values()), None if not more or more[0].ends else last)

    async def answer(self, run_id: str, head: Head, request_id: str, answer: Any, *, by: Actor) -> None:
        """Answer a request, once: the same answer again changes nothing.

        Args:
            head: the run's.

        Raises:
            InputNotFound: the run has no such request.
            InputClosed: it has another answer, has expired, or the run has ended or is to stop.
            InvalidAnswer: it is null, or does not match the request's schema.
            TooLarge, EventTooDeep, InvalidEvent: it cannot be stored.
            Busy: too many answers are being checked, or others append to the run all the time.
        """
        check_depth(answer, "the answer")
        if (size := json_size(answer)) > MAX_ANSWER_BYTES:
            message = f"the answer has {size:,} bytes as JSON; the limit is {MAX_ANSWER_BYTES:,} bytes"
            raise TooLarge("answer_bytes", message)
        if answer is None:
            raise InvalidAnswer(NULL, field="$.answer")
        current: Head | None = head
        asked = OpenInputs(self._log, run_id)
        for _ in range(ANSWER_TRIES):
            if current is None:
                raise InputNotFound(f"there is no run {run_id}")
            with suppress(WrongExpectedSeq, RunClosed):  # perhaps after the same answer
                return await self._answer(run_id, current, asked, request_id, answer, by)
            current = await self._log.head(run_id)
        raise Busy(f"others append to run {run_id} all the time: try again")

    async def add(self, run_id: str, content: str | list[dict[str, Any]], *, by: Actor) -> int:
        """Add a message to a run under way; returns its seq.

        Raises:
            RunClosed: the run has ended.
            TooLarge, EventTooDeep, InvalidEvent: it cannot be stored.
        """
        check_depth(content, "the content")
        if (size := json_size(content)) > MAX_ADDED_BYTES:
            message = f"the content has {size:,} bytes as JSON; the limit is {MAX_ADDED_BYTES:,} bytes"
            raise TooLarge("added_bytes", message)
        added = InputAdded(content=content, by=by.user_id, key_id=by.key_id)
        return await self._log.append(run_id, [added])

    async def _answer(
        self, run_id: str, head: Head, asked: OpenInputs, request_id: str, answer: Any, by: Actor
    ) -> None:
        inputs = await asked.read(head.seq)
        found = inputs.get(request_id) or await asked.earlier(request_id)
        if found is None:
            raise InputNotFound(f"run {run_id} has no request {request_id[:100]!r}")
        if found.given is not None:
            if found.given.by is None:
                raise InputClosed(f"request {request_id} has expired: its default is the answer")
            if _same(found.given.answer, answer):
                return
            raise InputClosed(f"request {request_id} was answered before, with another answer")
        if head.closed or head.cancel_requested:
            raise InputClosed(f"run {run_id} has ended, or is to stop")
        if request_id not in inputs:
            raise InputClosed(f"run {run_id} has gone on without an answer to request {request_id}")
        request = found.request
        if request.expires_at is not None and request.expires_at <= now_ms():
            raise InputClosed(f"request {request_id} has expired")
        if request.schema is not None:
            wrong = await self._threads.call(schema_warnings, request.schema, answer)
            if wrong:
                path = "$.answer" + wrong[0].path.removeprefix("$")
                raise InvalidAnswer(f"{path}: {wrong[0].message}", field=path)
        given = answered(inputs, request_id, answer, by=by.user_id, key_id=by.key_id)
        await self._log.append(run_id, [given], expected_seq=head.seq)


def _first(inputs: Mapping[str, Input], most: int) -> dict[str, Input]:
    """The first requests with their answers: at least one, and no more than `most` bytes as JSON."""
    kept: dict[str, Input] = {}
    size = 0
    for request_id, each in inputs.items():
        size += json_size(each)
        if kept and size > most:
            break
        kept[request_id] = each
    return kept


def _same(one: Any, other: Any) -> bool:
    """Whether two answers are the same JSON: 1 is not true."""
    encode = msgspec.json.Encoder(order="deterministic").encode
    return encode(one) == encode(other)
