"""Starts a run that begins with the conversation of another one."""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, decode
from runstore.core.content import asked_messages
from runstore.core.errors import AgentError, ConfigError, InvalidCursor, InvalidQuery, RunNotFound, TooLarge
from runstore.core.events import Queued
from runstore.core.new_run import NewRun
from runstore.core.ports import Conversations
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.memory.forks import FORKED, fork_of
from runstore.runtime.memory.session_memory import read_memory

MAX_FORKED_BYTES = 64 << 20  # bytes of the events that hold the conversation


class ForkOptions(Struct, frozen=True, kw_only=True):
    """What a fork changes. `at`: a seq of the run; None: its last. `model`: the model's id."""

    at: int | None = None
    model: str | None = None
    system_prompt: str | None = None
    input: Any = None
    agent: str | None = None


async def forked(
    log: Conversations,
    catalog: AgentCatalog,
    run_id: str,
    head: int,
    options: ForkOptions,
    new: NewRun,
    *,
    reads_session: bool,
) -> NewRun:
    """The run to start as a fork, of a run whose last seq is `head`.

    Args:
        new: the user and the login of the fork.
        reads_session: whether this user may read all runs of the run's session. Otherwise the fork lacks the
            messages that the run remembered from them.

    Raises:
        InvalidCursor: `at` is beyond the run's head.
        InvalidQuery: the run has no conversation to begin with, or a change has no effect on the agent.
        TooLarge: its events are larger than MAX_FORKED_BYTES.
        AgentNotFound, RunPurged
    """
    at = head if options.at is None else options.at
    if not 0 < at <= head:
        raise InvalidCursor(f"at={at} is not an event of run {run_id}: its events are 1 to {head}")
    events: list[RecordedEvent] = []
    after = size = 0
    while page := await log.read(run_id, after=after, upto=at, only=FORKED):
        events += page
        size += sum(len(event.data) for event in page)
        if size > MAX_FORKED_BYTES:
            message = f"the events of the conversation have more than {MAX_FORKED_BYTES:,} bytes"
            raise TooLarge("fork_bytes", message)
        after = page[-1].seq
    queued = decode(events[0].type, events[0].version, events[0].data) if events else None
    if not isinstance(queued, Queued):
        raise RunNotFound(f"there is no run {run_id}")
    if "hierarchy" in queued.definition and options.agent is None:
        raise InvalidQuery("a run of a hierarchy cannot be forked: name another agent")
    remembers = queued.memory == "session" and reads_session
    memory = await read_memory(log, run_id, queued) if remembers else []
    try:
        fork = fork_of(queued, events, memory=memory, asks=options.input is not None)
        asked = _messages(options.input)
        same = fork.seq == 1 and not memory and not asked and fork.messages == asked_messages(queued.input)
    except AgentError as error:
        raise InvalidQuery(f"run {run_id} has no conversation to fork: {error}") from error
    name = options.agent or queued.agent
    changes = {"model_id": options.model, "system_prompt": options.system_prompt}
    changes = {key: value for key, value in changes.items() if value is not None}
    definition = {**catalog.definition(name), **({"fork": changes} if changes else {})}
    try:
        catalog.spec_of(name, definition)
    except ConfigError as error:  # a change has no effect on this agent
        raise InvalidQuery(str(error)) from error
    # A function gets its input as it was given; only an agent takes a conversation for it.
    input = queued.input if same else [*fork.instructions, *fork.messages, *asked]
    return replace(
        new, agent=name, input=input, definition=definition, memory=False,
        parent_run_id=run_id, forked_at_seq=fork.seq,
    )  # fmt: skip


def _messages(input: Any) -> list[dict[str, Any]]:
    if input is None:
        return []
    content = [{"text": input}] if isinstance(input, str) else input
    return [{"role": "user", "content": content}]
