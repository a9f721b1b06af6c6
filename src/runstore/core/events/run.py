"""`run.*`: a closed run is deleted from the lists, or purged of its events."""

from typing import ClassVar

from msgspec import Struct

from runstore.core.events.event import Event, EventType
from runstore.core.events.lifecycle import Outcome


class Deleted(Event, frozen=True):
    """The run was deleted from the lists; a closed run accepts this once. `key_id`: the request's API key."""

    type: ClassVar[EventType] = "run.deleted"
    by: str
    key_id: str | None = None


class ModelUsage(Struct, frozen=True, omit_defaults=True):
    """The tokens that a run's calls of one model used, as in `llm.usage`. Times: sums, in milliseconds.

    `incomplete`: calls that broke off before their usage was reported. `first_tokens`: calls whose time to
    the first token is known.
    """

    model: str = ""
    calls: int = 0
    incomplete: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    first_tokens: int = 0
    first_token_ms: int = 0
    duration_ms: int = 0


class ToolUsage(Struct, frozen=True, omit_defaults=True):
    """One agent's calls of one tool in a run.

    `latencies`: the number of calls by their duration, one for each bucket of
    `core.folds.tool_usage.BUCKETS_MS`, and one for those above; trailing zeros are omitted. `duration_ms`:
    their sum.
    """

    agent: str
    tool: str
    calls: int = 0
    failures: int = 0
    duration_ms: int = 0
    latencies: tuple[int, ...] = ()


class Purged(Event, frozen=True):
    """The run's events were removed, because of their age or to erase a person; this summary remains.

    `models`, `tools`: what its model and tool calls came to. `incomplete`: its usage is not fully known.
    `counts`: the number of events of each type, with `custom` for all of `custom.*`; their sum is the last
    seq. Times: UTC, milliseconds since 1970.
    """

    type: ClassVar[EventType] = "run.purged"
    by: str
    user_id: str
    agent: str
    status: Outcome
    created_at: int
    completed_at: int
    counts: dict[str, int]
    started_at: int | None = None
    session_id: str | None = None
    workspace_id: str | None = None
    parent_run_id: str | None = None
    attempt: int = 0
    error_code: str | None = None
    stopped_by: str | None = None
    usage: dict[str, int] = {}
    deleted: bool = False
    models: list[ModelUsage] = []
    tools: list[ToolUsage] = []
    incomplete: bool = False
