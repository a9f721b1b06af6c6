"""Each request of the API as a value, and how to read its answer. `sync` and `aio` do the I/O."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec
from msgspec import Struct

from runstore.client.errors import ApiError, ServerUnreachable, UnexpectedAnswer, error_of
from runstore.client.patience import Patience
from runstore.client.records import ForkedRun, InputRecord, RunRecord, Ticket
from runstore.core.audit import AuditEvent
from runstore.core.codec import TOO_DEEP
from runstore.core.depth import decoded
from runstore.core.errors import EventTooDeep, InvalidName
from runstore.core.events import Custom
from runstore.core.folds.trace import Trace
from runstore.core.model_requests import ModelRequest, RequestSummary
from runstore.core.names import check_text
from runstore.core.records import EventRecord

PAGE = 1_000  # runs or events per request
INPUTS = 100  # requests for input per request, which may be large
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0  # seconds for an answer, beyond the wait that a request asks for
PURGE_TIMEOUT_S = 600.0  # seconds for a purge beyond that: about 30,000 events are removed in a second
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

WHOLE_REPORTS = ("usage", "tools")  # answered at once, without pages

T = TypeVar("T")


class ApiCall(Struct, Generic[T], frozen=True):
    """One request.

    `repeatable`: sending it twice has the effect of sending it once, so it is retried after a lost answer.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, Any] = {}
    body: Any = None
    headers: Mapping[str, str] = {}
    repeatable: bool = True
    wait_s: float = 0

    def request(self) -> dict[str, Any]:
        """The arguments for httpx.

        Raises:
            InvalidName: a value is not valid Unicode text.
            EventTooDeep: the body is nested too deeply to encode.
        """
        headers, content = dict(self.headers), None
        if self.body is not None:
            headers["Content-Type"] = "application/json"
            content = _json(self.body)
        timeout = httpx.Timeout(ANSWER_TIMEOUT_S + self.wait_s, connect=CONNECT_TIMEOUT_S)
        return {
            "method": self.method, "url": self.path, "content": content, "headers": headers,
            "params": {name: _text(name, value) for name, value in self.params.items() if value is not None},
            "timeout": timeout,
        }  # fmt: skip


def _json(body: Any) -> bytes:
    try:
        return msgspec.json.encode(body)
    except RecursionError as error:
        raise EventTooDeep(TOO_DEEP.format("the body")) from error
    except UnicodeEncodeError as error:
        raise InvalidName("the body holds half of a surrogate pair, which UTF-8 cannot encode") from error


def _text(name: str, value: Any) -> Any:
    if isinstance(value, str):
        check_text(value, name)
    return value


class Page(Struct, Generic[T], frozen=True):
    """One page of results, and the call for the next page."""

    data: list[T]
    following: ApiCall["Page[T]"] | None


class CallTries(Generic[T]):
    """The tries of one call; decides after each whether to try again, and when."""

    def __init__(self, call: ApiCall[T], retry_s: float) -> None:
        self._call = call
        self._patience = Patience(retry_s)

    def failed(self, error: httpx.TransportError) -> float:
        """Record that no answer came; return the seconds to wait before the next try.

        Raises:
            ServerUnreachable: the call must not be repeated, or its time is over.
        """
        lost = unreachable(error)
        if not self._call.repeatable and not isinstance(error, NEVER_SENT):
            raise lost from error
        return self._patience.wait_s(lost)

    def answered(self, answer: httpx.Response) -> float | None:
        """Record an answer; return the seconds to wait before the next try, or None to accept this one.

        Raises:
            ApiError: the server refused the request.
        """
        if answer.is_success:
            return None
        error = error_of(answer.status_code, answer.headers, answer.content)
        if not is_passing(error) or (not self._call.repeatable and error.code != "log_unavailable"):
            raise error
        return self._patience.wait_s(error, error.retry_after_s)

    def result(self, answer: httpx.Response) -> T:
        """The content of a successful answer.

        Raises:
            UnexpectedAnswer: the content cannot be decoded.
        """
        try:
            return self._call.read(answer.content)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnexpectedAnswer(f"{answer.url} sent an answer that cannot be read: {error}") from error


def is_passing(error: ApiError) -> bool:
    """Whether the request may succeed later: the database or the server is unavailable for now."""
    return error.status in (502, 503, 504)


def unreachable(error: httpx.TransportError) -> ServerUnreachable:
    url = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
    lost = ServerUnreachable(f"{url}: {str(error) or type(error).__name__}")
    lost.__cause__ = error
    return lost


# The calls.


def start(agent: str, key: str | None, **body: Any) -> ApiCall[RunRecord]:
    return ApiCall(
        "POST",
        f"/agents/{quote(agent, safe='')}/start",
        _read_run,
        body={name: value for name, value in body.items() if value is not None},
        headers={"Idempotency-Key": key or str(uuid4())},
    )


def fork(run_id: str, key: str | None, **body: Any) -> ApiCall[ForkedRun]:
    return ApiCall(
        "POST",
        _path(run_id, "/fork"),
        partial(decoded, msgspec.json.Decoder(ForkedRun).decode),
        body={name: value for name, value in body.items() if value is not None},
        headers={"Idempotency-Key": key or str(uuid4())},
    )


def stop(run_id: str, reason: str | None) -> ApiCall[RunRecord]:
    return ApiCall("POST", _path(run_id, "/stop"), _read_run, body={"reason": reason} if reason else None)


def get(run_id: str, at: int | None, wait_s: float | None) -> ApiCall[RunRecord]:
    return ApiCall("GET", _path(run_id), _read_run, params={"at": at, "wait": wait_s}, wait_s=wait_s or 0)


def ticket(run_id: str, ttl_s: int | None, scope: str) -> ApiCall[Ticket]:
    body = {**({} if ttl_s is None else {"ttl_s": ttl_s}), **({} if scope == "stream" else {"scope": scope})}
    return ApiCall("POST", _path(run_id, "/ticket"), _read_ticket, body=body or None)


def inputs(run_id: str) -> ApiCall[Page[InputRecord]]:
    return _page(_path(run_id, "/inputs"), {}, None, InputRecord, page=INPUTS)


def answer(run_id: str, request_id: str, answer: Any) -> ApiCall[RunRecord]:
    path = _path(run_id, f"/inputs/{quote(request_id, safe='')}")
    return ApiCall("POST", path, _read_run, body={"answer": answer})


def say(run_id: str, content: Any) -> ApiCall[int]:
    path = _path(run_id, "/inputs")
    return ApiCall("POST", path, _read_last_seq, body={"content": content}, repeatable=False)


def delete(run_id: str) -> ApiCall[None]:
    return ApiCall("DELETE", _path(run_id), _read_nothing, repeatable=False)


def purge(run_id: str, reason: str, pseudonym: bool) -> ApiCall[list[str]]:
    params = {"purge": "true", "reason": reason, "pseudonym": "true" if pseudonym else None}
    return ApiCall(
        "DELETE", _path(run_id), _read_forks, params=params, repeatable=False, wait_s=PURGE_TIMEOUT_S
    )


def append(run_id: str, events: Sequence[Custom], expected_seq: int | None) -> ApiCall[int]:
    body = {"events": events, "expected_seq": expected_seq}
    return ApiCall("POST", _path(run_id, "/events"), _read_last_seq, body=body, repeatable=False)


def agents() -> ApiCall[list[dict[str, Any]]]:
    return ApiCall("GET", "/agents", _read_agents)


def runs(limit: int | None, **filters: Any) -> ApiCall[Page[RunRecord]]:
    return _page("/runs", filters, limit, RunRecord)


def events(
    run_id: str, after: int, limit: int | None, types: Sequence[str] | None
) -> ApiCall[Page[EventRecord]]:
    return _page(_path(run_id, "/events"), {"after": after, "types": joined(types)}, limit, EventRecord)


def trace(run_id: str) -> ApiCall[Trace]:
    return ApiCall("GET", _path(run_id, "/trace"), partial(decoded, msgspec.json.Decoder(Trace).decode))


def requests(run_id: str, limit: int | None) -> ApiCall[Page[RequestSummary]]:
    return _page(_path(run_id, "/requests"), {}, limit, RequestSummary)


def request(run_id: str, n: int) -> ApiCall[ModelRequest]:
    return ApiCall("GET", _path(run_id, f"/requests/{n}"), _read_request)


class AuditFilters(TypedDict, total=False):
    """The filters of GET /audit/events."""

    types: Sequence[str] | None
    user_id: str | None
    agent: str | None
    session_id: str | None
    workspace_id: str | None
    run_id: str | None
    since: datetime | str | None
    until: datetime | str | None
    contains: str | None


def audit_filters(filters: AuditFilters) -> dict[str, Any]:
    """The filters that are given, as parameters."""
    given = {**filters, "types": joined(filters.get("types"))}
    return {name: _as_parameter(value) for name, value in given.items() if value is not None}


def audit(after: int, limit: int | None, filters: Mapping[str, Any]) -> ApiCall[Page[AuditEvent]]:
    return _page("/audit/events", {**filters, "after": after}, limit, AuditEvent)


def report(name: str, limit: int | None, filters: Mapping[str, Any]) -> ApiCall[Page[dict[str, Any]]]:
    path = f"/audit/{name}"
    if name in WHOLE_REPORTS:
        given = {key: _as_parameter(value) for key, value in filters.items()}
        return ApiCall("GET", path, lambda body: Page(_read_rows(body).data[:limit], None), params=given)
    return _page(path, filters, limit, dict[str, Any], cursor="before" if name == "search" else "after")


def joined(types: Sequence[str] | None) -> str | None:
    return None if types is None else ",".join(types)


def _page(
    path: str,
    params: Mapping[str, Any],
    limit: int | None,
    cls: type[T],
    cursor: str = "after",
    page: int = PAGE,
) -> ApiCall[Page[T]]:
    """The call for one page.

    Args:
        limit: items in total; None means all of them.
        cursor: the parameter for a page's `next`.
        page: items per request.
    """
    decoder = msgspec.json.Decoder(_Listed[cls])  # type: ignore[valid-type]

    def read(body: bytes) -> Page[T]:
        listed = decoded(decoder.decode, body)
        left = None if limit is None else limit - len(listed.data)
        if listed.next is None or left == 0:
            return Page(listed.data, None)
        return Page(listed.data, _page(path, {**params, cursor: listed.next}, left, cls, cursor, page))

    asked = {name: _as_parameter(value) for name, value in params.items()}
    return ApiCall("GET", path, read, params={**asked, "limit": page if limit is None else min(limit, page)})


class _Listed(Struct, Generic[T]):
    data: list[T]
    next: str | int | None = None


_read_rows = msgspec.json.Decoder(_Listed[dict[str, Any]]).decode


class _Appended(Struct):
    last_seq: int


class _Purged(Struct, frozen=True):
    forks: list[str]


def _path(run_id: str, rest: str = "") -> str:
    return f"/runs/{quote(run_id, safe='')}{rest}"


def _as_parameter(value: Any) -> Any:
    """A time as the API reads it; a time without a zone is local."""
    return value.astimezone().isoformat() if isinstance(value, datetime) else value


def _read_request(body: bytes) -> ModelRequest:
    return decoded(msgspec.json.Decoder(ModelRequest).decode, body)


def _read_run(body: bytes) -> RunRecord:
    return decoded(msgspec.json.Decoder(RunRecord).decode, body)


def _read_ticket(body: bytes) -> Ticket:
    return msgspec.json.decode(body, type=Ticket)


def _read_last_seq(body: bytes) -> int:
    return msgspec.json.decode(body, type=_Appended).last_seq


def _read_agents(body: bytes) -> list[dict[str, Any]]:
    return msgspec.json.decode(body, type=_Listed[dict[str, Any]]).data


def _read_forks(body: bytes) -> list[str]:
    return msgspec.json.decode(body, type=_Purged).forks if body else []  # an older server answers 204


def _read_nothing(body: bytes) -> None:
    return None
