"""What the API shows. A newer server's fields are ignored, those that an older one lacks empty."""

from typing import Any

from msgspec import Struct


class RunRecord(Struct, frozen=True, kw_only=True):
    """See docs/http.md, "The run record". Times: RFC 3339, UTC. `last_seq`: not in lists.

    `truncated`: in lists, the fields that are left out since they are large; `get` has them. `purged_at`,
    `deleted`, `counts`: only of purged runs.
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
    truncated: list[str] = []
    last_seq: int | None = None
    purged_at: str | None = None
    deleted: bool = False
    counts: dict[str, int] = {}

    @property
    def ended(self) -> bool:
        """Whether the run has its terminal event."""
        return self.completed_at is not None


class Ticket(Struct, frozen=True, kw_only=True):
    """What opens one run's stream without a key. `url`: the stream's, with it, from the server's root."""

    ticket: str
    url: str
    expires_at: str
