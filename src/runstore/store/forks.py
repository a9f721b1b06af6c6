"""Starts a run that begins with the conversation of another one."""

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from runstore.core.codec import decode
from runstore.core.content import asked_messages
from runstore.core.errors import AgentError, ConfigError, InvalidCursor, InvalidQuery, RunNotFound
from runstore.core.events import InputReplaced, Message, Queued
from runstore.core.new_run import NewRun
from runstore.core.pages import pages
from runstore.core.ports import Conversations, Head
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.memory.forks import FORKED, fork_of
from runstore.runtime.memory.held import bare
from runstore.runtime.memory.session_memory import read_memory, said_by_root
from runstore.store.large_reads import CountedReader

MAX_FORKED_BYTES = 64 << 20  # bytes of the events that hold the conversation, and of their rows


class ForkOptions(Struct, frozen=True, kw_only=True):
    """The changes of a fork. `at`: a seq of the run; None: its last. `model`: the model's id."""

    at: int | None = None
    model: str | None = None
    system_prompt: str | None = None
    input: Any = None
    agent: str | None = None


async def forked(
    log: Conversations,
    catalog: AgentCatalog,
    run_id: str,
    head: Head,
    options: ForkOptions,
    new: NewRun,
    *,
    reads_session: bool,
) -> NewRun:
    """The run to start as a fork.

    Args:
        head: of the run to fork. While it is open, its last answer may still be withheld: it is left out.
        new: the user and the login of the fork.
        reads_session: whether this user may read all runs of the run's session. Otherwise the fork lacks the
            messages that the run remembered from them.

    Raises:
        InvalidCursor: `at` is beyond the run's head.
        InvalidQuery: the run has no conversation to begin with, or a change has no effect on the agent.
        TooLarge: its events are larger than MAX_FORKED_BYTES.
        AgentNotFound, RunPurged
    """
    at = head.seq if options.at is None else options.at
    if not 0 < at <= head.seq:
        raise InvalidCursor(f"at={at} is not an event of run {run_id}: its events are 1 to {head.seq}")
    reader = CountedReader(log, MAX_FORKED_BYTES, limit="fork_bytes", what="the conversation")
    events = await reader.read(run_id, upto=at, only=FORKED)
    queued = decode(events[0].type, events[0].version, events[0].data) if events else None
    if not isinstance(queued, Queued):
        raise RunNotFound(f"there is no run {run_id}")
    if "recorded" in queued.definition and not head.closed:
        unsafe = f"a program records run {run_id}, and may yet withhold any of its answers"
        raise InvalidQuery(f"{unsafe}: fork it once it has ended")
    definition = _definition(catalog, queued, options)
    remembers = queued.memory == "session" and reads_session
    memory = list(map(bare, await read_memory(log, run_id, queued))) if remembers else []
    try:
        asks = options.input is not None and (head.closed or await _goes_on(log, run_id, at, head.seq))
        fork = fork_of(queued, events, memory=memory, asks=asks)
        asked = _messages(options.input)
        same = fork.seq == 1 and not memory and not asked and fork.messages == asked_messages(queued.input)
    except AgentError as error:
        raise InvalidQuery(f"run {run_id} has no conversation to fork: {error}") from error
    # A function gets its input as it was given; only an agent takes a conversation for it.
    input = queued.input if same else [*fork.instructions, *fork.messages, *asked]
    return replace(
        new, agent=options.agent or queued.agent, input=input, definition=definition, memory=False,
        parent_run_id=run_id, forked_at_seq=fork.seq, request=asdict(options),
    )  # fmt: skip


def _definition(catalog: AgentCatalog, queued: Queued, options: ForkOptions) -> dict[str, Any]:
    """The definition of the fork's agent. Raises InvalidQuery: see `forked`."""
    name = options.agent or queued.agent
    changes = {"model_id": options.model, "system_prompt": options.system_prompt}
    changes = {key: value for key, value in changes.items() if value is not None}
    try:
        if "hierarchy" in queued.definition and options.agent is None:
            if changes:
                raise InvalidQuery("a hierarchy names its models and prompts itself: they cannot be changed")
            return catalog.team_definition(queued.definition)
        definition = {**catalog.definition(name), **({"fork": changes} if changes else {})}
        catalog.spec_of(name, definition)
    except ConfigError as error:  # a change has no effect on this agent
        raise InvalidQuery(str(error)) from error
    return definition


async def _goes_on(log: Conversations, run_id: str, at: int, head: int) -> bool:
    """Whether the run's own agent has said or heard something after an event."""
    async for page in pages(log, run_id, after=at, upto=head, only=FORKED):
        if any(isinstance(event, Message | InputReplaced) for _, event in said_by_root(page)):
            return True
    return False


def _messages(input: Any) -> list[dict[str, Any]]:
    if input is None:
        return []
    content = [{"text": input}] if isinstance(input, str) else input
    return [{"role": "user", "content": content}]
