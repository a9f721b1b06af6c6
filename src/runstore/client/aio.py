"""The client for programs with an event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
from typing_extensions import Unpack

from runstore.client import calls
from runstore.client.calls import ApiCall, AuditFilters, CallTries, Page, audit_filters
from runstore.client.connection import connection
from runstore.client.following import FollowingAudit, FollowingSeveral, RunStream, Stream
from runstore.client.patience import RETRY_S
from runstore.client.records import ForkedRun, InputRecord, RunRecord, Ticket
from runstore.core.audit import AuditEvent
from runstore.core.events import Custom, MultitaskStrategy
from runstore.core.folds.trace import Trace
from runstore.core.model_requests import ModelRequest, RequestSummary
from runstore.core.records import EventRecord

T = TypeVar("T")


class AsyncClient:
    """The methods of `Client`, as coroutines. Use it in an `async with`, or call `aclose`."""

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, retry_s: float = RETRY_S
    ) -> None:
        self._http = httpx.AsyncClient(**connection(url, api_key))
        self._retry_s = retry_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """See `Client.close`."""
        await self._http.aclose()

    async def start(
        self,
        agent: str,
        input: Any,
        *,
        session_id: str | None = None,
        workspace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        multitask_strategy: MultitaskStrategy | None = None,
        idempotency_key: str | None = None,
    ) -> RunRecord:
        """See `Client.start`."""
        return await self._do(calls.start(
            agent, idempotency_key, input=input, session_id=session_id, workspace_id=workspace_id,
            metadata=metadata, multitask_strategy=multitask_strategy,
        ))  # fmt: skip

    def stream(
        self, run_id: str, *, after: int = 0, types: Sequence[str] | None = None
    ) -> AsyncGenerator[EventRecord, None]:
        """See `Client.stream`. To leave the loop early, wrap the stream in `contextlib.aclosing`."""
        return self._follow(RunStream(run_id, after=after, types=types, retry_s=self._retry_s))

    def follow(self, *run_ids: str, types: Sequence[str] | None = None) -> AsyncGenerator[EventRecord, None]:
        """See `Client.follow`. To leave the loop early, wrap the stream in `contextlib.aclosing`."""
        return self._follow(FollowingSeveral(run_ids, types=types, retry_s=self._retry_s))

    async def _follow(self, following: Stream[T]) -> AsyncGenerator[T, None]:
        while True:
            try:
                async with self._http.stream(**following.request()) as answer:
                    if following.opened(answer):
                        async for part in answer.aiter_bytes():
                            for event in following.feed(part):
                                yield event
                            if following.ended:
                                break
                    else:
                        await answer.aread()
                        following.refused(answer)
            except httpx.TransportError as error:
                following.broken(error)
            if following.ended:
                return
            await asyncio.sleep(following.wait_s())

    async def get(self, run_id: str, *, at: int | None = None, wait: float | None = None) -> RunRecord:
        """See `Client.get`."""
        return await self._do(calls.get(run_id, at, wait))

    def list(
        self,
        *,
        status: str | None = None,
        agent: str | None = None,
        session_id: str | None = None,
        workspace_id: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        purged: bool = False,
        user_id: str | None = None,
        deleted: bool | None = False,
        limit: int | None = None,
    ) -> AsyncIterator[RunRecord]:
        """See `Client.list`."""
        return self._all(
            calls.runs(
                limit, status=status, agent=agent, session_id=session_id, workspace_id=workspace_id,
                since=since, until=until, purged=purged or None, user_id=user_id,
                deleted=None if deleted is False else "any" if deleted is None else "true",
            )
        )  # fmt: skip

    def events(
        self, run_id: str, *, after: int = 0, limit: int | None = None, types: Sequence[str] | None = None
    ) -> AsyncIterator[EventRecord]:
        """See `Client.events`."""
        return self._all(calls.events(run_id, after, limit, types))

    def requests(self, run_id: str, *, limit: int | None = None) -> AsyncIterator[RequestSummary]:
        """See `Client.requests`."""
        return self._all(calls.requests(run_id, limit))

    async def request(self, run_id: str, n: int) -> ModelRequest:
        """See `Client.request`."""
        return await self._do(calls.request(run_id, n))

    def audit(
        self, *, after: int = 0, limit: int | None = None, **filters: Unpack[AuditFilters]
    ) -> AsyncIterator[AuditEvent]:
        """See `Client.audit`."""
        return self._all(calls.audit(after, limit, audit_filters(filters)))

    def follow_audit(
        self,
        *,
        after: int = 0,
        **filters: Unpack[AuditFilters],
    ) -> AsyncGenerator[AuditEvent, None]:
        """See `Client.follow_audit`. To leave the loop early, wrap it in `contextlib.aclosing`."""
        return self._follow(FollowingAudit(audit_filters(filters), after=after, retry_s=self._retry_s))

    def report(
        self,
        report: Literal["runs", "usage", "tools", "search"],
        *,
        limit: int | None = None,
        **filters: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        """See `Client.report`."""
        return self._all(calls.report(report, limit, filters))

    async def trace(self, run_id: str) -> Trace:
        """See `Client.trace`."""
        return await self._do(calls.trace(run_id))

    async def append(self, run_id: str, events: Sequence[Custom], *, expected_seq: int | None = None) -> int:
        """See `Client.append`."""
        return await self._do(calls.append(run_id, events, expected_seq))

    async def fork(
        self,
        run_id: str,
        *,
        at: int | None = None,
        model: str | None = None,
        system_prompt: str | None = None,
        input: Any = None,
        agent: str | None = None,
        idempotency_key: str | None = None,
    ) -> ForkedRun:
        """See `Client.fork`."""
        changes = {"at": at, "model": model, "system_prompt": system_prompt, "input": input, "agent": agent}
        return await self._do(calls.fork(run_id, idempotency_key, **changes))

    async def stop(self, run_id: str, *, reason: str | None = None) -> RunRecord:
        """See `Client.stop`."""
        return await self._do(calls.stop(run_id, reason))

    def inputs(self, run_id: str) -> AsyncIterator[InputRecord]:
        """See `Client.inputs`."""
        return self._all(calls.inputs(run_id))

    async def answer(self, run_id: str, request_id: str, answer: Any) -> RunRecord:
        """See `Client.answer`."""
        return await self._do(calls.answer(run_id, request_id, answer))

    async def say(self, run_id: str, content: str | Sequence[dict[str, Any]]) -> int:
        """See `Client.say`."""
        return await self._do(calls.say(run_id, content))

    async def ticket(
        self, run_id: str, *, ttl_s: int | None = None, scope: Literal["stream", "answer"] = "stream"
    ) -> Ticket:
        """See `Client.ticket`."""
        return await self._do(calls.ticket(run_id, ttl_s, scope))

    async def delete(self, run_id: str) -> None:
        """See `Client.delete`."""
        await self._do(calls.delete(run_id))

    async def purge(self, run_id: str, *, reason: str, pseudonym: bool = False) -> Sequence[str]:
        """See `Client.purge`."""
        return await self._do(calls.purge(run_id, reason, pseudonym))

    async def agents(self) -> Sequence[dict[str, Any]]:
        """See `Client.agents`."""
        return await self._do(calls.agents())

    async def _do(self, call: ApiCall[T]) -> T:
        tries = CallTries(call, self._retry_s)
        while True:
            try:
                answer = await self._http.request(**call.request())
            except httpx.TransportError as error:
                wait_s: float | None = tries.failed(error)
            else:
                wait_s = tries.answered(answer)
            if wait_s is None:
                return tries.result(answer)
            await asyncio.sleep(wait_s)

    async def _all(self, call: ApiCall[Page[T]] | None) -> AsyncIterator[T]:
        while call is not None:
            page = await self._do(call)
            for item in page.data:
                yield item
            call = page.following
