"""The API's records, as a client of another release than the server's reads them.

The server's own records (`http/native`) promise each field with its exact type. Here fields that an older
server does not send are empty, fields that only a newer one sends are ignored, and a newer status is a text.
A test holds the fields of both equal.
"""

from typing import Any

from msgspec import Struct

from runstore.core.run import Actor


class PendingRecord(Struct, frozen=True, kw_only=True):
    """An open request of a waiting run. `prompt` may be cut; `Client.inputs` has all of it."""

    request_id: str
    prompt: str = ""
    kind: str = "question"
    agent: str = ""
    tool: str | None = None
    seq: int = 0
    expires_at: str | None = None


class RunRecord(Struct, frozen=True, kw_only=True):
    """See docs/reference/http.md, "The run record". Times are RFC 3339 in UTC. Lists omit `last_seq`.

    `truncated` names the large fields that a list leaves out; `get` has them. Only purged runs have
    `purged_at`, `deleted` and `counts`; only waiting runs have `pending_inputs`.
    `unheard`: seqs of messages that people added and the agent has not taken.
    """

    run_id: str
    status: str
    user_id: str = ""
    agent_name: str = ""
    session_id: str | None = None
    workspace_id: str | None = None
    cancel_requested: bool = False
    created_at: str = ""
    started_at: str | None = None
    completed_at: str | None = None
    attempt: int = 0
    result: dict[str, Any] | None = None
    error: str | None = None
    error_code: str | None = None
    reason: str | None = None
    forced: bool = False
    superseded_by: str | None = None
    parent_run_id: str | None = None
    usage: dict[str, int] = {}
    metadata: dict[str, Any] = {}
    input: Any = None
    started_by: Actor | None = None
    stopped_by: Actor | None = None
    truncated: list[str] = []
    last_seq: int | None = None
    purged_at: str | None = None
    deleted: bool = False
    counts: dict[str, int] = {}
    pending_inputs: list[PendingRecord] = []
    unheard: list[int] = []

    @property
    def ended(self) -> bool:
        """Whether the run has its terminal event."""
        return self.completed_at is not None


class InputRecord(Struct, frozen=True, kw_only=True):
    """A request of a run for a person's input; see docs/reference/http.md. Times are RFC 3339 in UTC.

    `status`: `open`, `answered` or `closed`. `input`: of an approval, the exact arguments.
    """

    request_id: str
    status: str
    prompt: str = ""
    kind: str = "question"
    seq: int = 0
    agent: str = ""
    call_id: str | None = None
    data: Any = None
    schema: dict[str, Any] | None = None
    tool: str | None = None
    tool_use_id: str | None = None
    input: Any = None
    asked_at: str = ""
    expires_at: str | None = None
    default: Any = None
    answer: Any = None
    answered_by: str | None = None
    answered_at: str | None = None


class ForkedRun(Struct, frozen=True, kw_only=True):
    """A fork. `forked_at_seq`: the seq of the other run that its conversation ends at."""

    run_id: str
    parent_run_id: str
    forked_at_seq: int
    run: RunRecord


class Ticket(Struct, frozen=True, kw_only=True):
    """Opens one run's stream without a key. `url`: of the stream, with the ticket in it, from the root on."""

    ticket: str
    url: str
    expires_at: str
