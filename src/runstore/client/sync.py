"""The client for programs without an event loop."""

import time
from collections.abc import Iterator, Mapping, Sequence
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


class Client:
    """Starts, follows and stops runs over HTTP. Threads may share it. Use it in a `with`, or call `close`.

    Every method raises ApiError when the server refuses (the class stands for the status, `code` for the
    reason), and ServerUnreachable when no answer came.

    Args:
        url: the server; by default RUNSTORE_URL, else http://127.0.0.1:8082.
        api_key: by default RUNSTORE_API_KEY, else none.
        retry_s: seconds to retry while the server does not answer or is unavailable; 0 never retries.
    """

    def __init__(
        self, url: str | None = None, *, api_key: str | None = None, retry_s: float = RETRY_S
    ) -> None:
        self._http = httpx.Client(**connection(url, api_key))
        self._retry_s = retry_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; open streams end with an error."""
        self._http.close()

    def start(
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
        """Start a run and return its record, once it is stored; `stream` follows it.

        Retries start no second run: every start carries an idempotency key, yours or a generated one.

        Args:
            multitask_strategy: how to handle active runs of the same session: `interrupt`, `enqueue` (the
                default), `reject` or `parallel`.
        """
        return self._do(calls.start(
            agent, idempotency_key, input=input, session_id=session_id, workspace_id=workspace_id,
            metadata=metadata, multitask_strategy=multitask_strategy,
        ))  # fmt: skip

    def stream(
        self, run_id: str, *, after: int = 0, types: Sequence[str] | None = None
    ) -> Iterator[EventRecord]:
        """Every event of the run after a seq, once and in order, live until the run ends.

        The stream survives broken connections, server restarts and database outages; they cost only time.
        Leaving the loop cuts the connection; the run goes on.

        Args:
            types: a filter, such as ["llm.token", "lifecycle.*"]; terminal events always come.
        """
        return self._follow(RunStream(run_id, after=after, types=types, retry_s=self._retry_s))

    def follow(self, *run_ids: str, types: Sequence[str] | None = None) -> Iterator[EventRecord]:
        """Every event of several runs over one connection, live until all of them have ended.

        Without `run_ids` it follows all of the user's own active runs, and each new one, without an end. Each
        run's events come once and in order. A run that is deleted or purged before it ends yields an event
        `stream.gone` with seq 0. The stream survives broken connections, as `stream` does.
        """
        return self._follow(FollowingSeveral(run_ids, types=types, retry_s=self._retry_s))

    def _follow(self, following: Stream[T]) -> Iterator[T]:
        while True:
            try:
                with self._http.stream(**following.request()) as answer:
                    if following.opened(answer):
                        for part in answer.iter_bytes():
                            yield from following.feed(part)
                            if following.ended:
                                break
                    else:
                        answer.read()
                        following.refused(answer)
            except httpx.TransportError as error:
                following.broken(error)
            if following.ended:
                return
            time.sleep(following.wait_s())

    def get(self, run_id: str, *, at: int | None = None, wait: float | None = None) -> RunRecord:
        """The run's current state, or its state after the seq `at`.

        Args:
            wait: seconds, up to 300: answer when the run has ended, or after this time.
        """
        return self._do(calls.get(run_id, at, wait))

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
    ) -> Iterator[RunRecord]:
        """The matching runs, newest first, read page by page during iteration.

        Args:
            purged: only purged runs.
            deleted: only deleted runs; None: these as well. For admins and auditors.
        """
        return self._all(
            calls.runs(
                limit, status=status, agent=agent, session_id=session_id, workspace_id=workspace_id,
                since=since, until=until, purged=purged or None, user_id=user_id,
                deleted=None if deleted is False else "any" if deleted is None else "true",
            )
        )  # fmt: skip

    def events(
        self, run_id: str, *, after: int = 0, limit: int | None = None, types: Sequence[str] | None = None
    ) -> Iterator[EventRecord]:
        """The run's events that are stored so far, read page by page during iteration."""
        return self._all(calls.events(run_id, after, limit, types))

    def requests(self, run_id: str, *, limit: int | None = None) -> Iterator[RequestSummary]:
        """The run's model calls, in order, read page by page during iteration."""
        return self._all(calls.requests(run_id, limit))

    def request(self, run_id: str, n: int) -> ModelRequest:
        """One request to a model of the run, exactly. `n`: 1, 2, … in the order of the run."""
        return self._do(calls.request(run_id, n))

    def audit(
        self, *, after: int = 0, limit: int | None = None, **filters: Unpack[AuditFilters]
    ) -> Iterator[AuditEvent]:
        """The events of all users' runs that are stored so far, in order of position.

        It is for admins and auditors. The last `position` is a cursor: give it as `after`. The filters are
        those of GET /audit/events.
        """
        return self._all(calls.audit(after, limit, audit_filters(filters)))

    def follow_audit(
        self,
        *,
        after: int = 0,
        **filters: Unpack[AuditFilters],
    ) -> Iterator[AuditEvent]:
        """As `audit`, then new events as they come, without an end.

        The stream survives broken connections, as `stream` does.
        """
        return self._follow(FollowingAudit(audit_filters(filters), after=after, retry_s=self._retry_s))

    def report(
        self,
        report: Literal["runs", "usage", "tools", "search"],
        *,
        limit: int | None = None,
        **filters: Any,
    ) -> Iterator[dict[str, Any]]:
        """The rows of GET /audit/runs, /audit/usage, /audit/tools or /audit/search, for admins and auditors.

        Args:
            limit: rows in total; None: all of them.
            filters: the parameters of that route, such as `user_id` or `sort`.
        """
        return self._all(calls.report(report, limit, filters))

    def trace(self, run_id: str) -> Trace:
        """The run as a tree of attempts, agents, model calls and tool calls."""
        return self._do(calls.trace(run_id))

    def append(self, run_id: str, events: Sequence[Custom], *, expected_seq: int | None = None) -> int:
        """Append custom events, all or none; return the last seq once they are stored."""
        return self._do(calls.append(run_id, events, expected_seq))

    def fork(
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
        """Start a run that begins with the conversation of this one.

        Args:
            at: a seq; the conversation ends at the last boundary up to it. None: the run's last.
            model: the id of another model.
            input: added to the conversation; without it the model answers again.
        """
        changes = {"at": at, "model": model, "system_prompt": system_prompt, "input": input, "agent": agent}
        return self._do(calls.fork(run_id, idempotency_key, **changes))

    def stop(self, run_id: str, *, reason: str | None = None) -> RunRecord:
        """Ask the run to stop; its ending follows within the grace period."""
        return self._do(calls.stop(run_id, reason))

    def inputs(self, run_id: str) -> Iterator[InputRecord]:
        """The run's requests for a person's input, in their order: open, answered and closed ones."""
        return self._all(calls.inputs(run_id))

    def answer(self, run_id: str, request_id: str, answer: Any) -> RunRecord:
        """Answer a request of a waiting run. The same answer again changes nothing.

        Args:
            answer: any JSON but null, within the request's schema.

        Raises:
            Conflict: it has another answer, has expired, or the run has ended.
        """
        return self._do(calls.answer(run_id, request_id, answer))

    def say(self, run_id: str, content: str | Sequence[dict[str, Any]]) -> int:
        """Add a message to a run under way, which its agent gets before its next model call.

        Returns the event's seq.
        """
        return self._do(calls.say(run_id, content))

    def ticket(
        self, run_id: str, *, ttl_s: int | None = None, scope: Literal["stream", "answer"] = "stream"
    ) -> Ticket:
        """A ticket that lets a browser follow the run, as an EventSource cannot send a key.

        Args:
            ttl_s: seconds that it is valid, up to 86,400; an hour by default.
            scope: `answer` lets it read and answer the run's requests instead.
        """
        return self._do(calls.ticket(run_id, ttl_s, scope))

    def delete(self, run_id: str) -> None:
        """Delete an ended run from the lists."""
        self._do(calls.delete(run_id))

    def purge(self, run_id: str, *, reason: str, pseudonym: bool = False) -> Sequence[str]:
        """Remove the events of an ended run for good, as an admin; its existence, times and counts stay.

        Args:
            reason: for the audit log, 1 to 200 characters.
            pseudonym: also replace the names of its user and session in the remaining rows.

        Returns:
            The ids of its forks, 1,000 at most: they hold copies of its conversation, and stay.
        """
        return self._do(calls.purge(run_id, reason, pseudonym))

    def agents(self) -> Sequence[dict[str, Any]]:
        """The agents that can be started."""
        return self._do(calls.agents())

    def _do(self, call: ApiCall[T]) -> T:
        tries = CallTries(call, self._retry_s)
        while True:
            try:
                answer = self._http.request(**call.request())
            except httpx.TransportError as error:
                wait_s: float | None = tries.failed(error)
            else:
                wait_s = tries.answered(answer)
            if wait_s is None:
                return tries.result(answer)
            time.sleep(wait_s)

    def _all(self, call: ApiCall[Page[T]] | None) -> Iterator[T]:
        while call is not None:
            page = self._do(call)
            yield from page.data
            call = page.following
