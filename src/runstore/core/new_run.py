"""The arguments of a start, for every surface."""

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from runstore.core.events import MultitaskStrategy, Queued
from runstore.core.names import MAX_NAME, check_name

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class RunOptions(Struct, frozen=True, kw_only=True):
    """The options of any run.

    `multitask_strategy`: how to handle active runs of the same session: stop them first, wait for them, be
    refused, or ignore them.
    """

    session_id: Name | None = None
    metadata: dict[str, Any] = {}
    workspace_id: Name | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"


class NewRun(RunOptions, frozen=True):
    """A run to start.

    Args:
        memory: whether the agent starts with the messages of the session's earlier successful runs. None: as
            its settings say.
        idempotency_key: within 24 h, the same key with the same arguments returns the same run.
        definition: the agent's definition to store in the run, if no configured agent has it.
        key_id: the API key of the request.
        parent_run_id, forked_at_seq: of a fork. `request`: what its request asked for; a retry asks for the
            same, though its run and its agent's settings may have changed.

    Raises:
        InvalidName: the user's, the session's or the workspace's name is not storable.
    """

    agent: str
    input: Any
    user_id: str
    memory: bool | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None
    definition: dict[str, Any] | None = None
    key_id: str | None = None
    parent_run_id: str | None = None
    forked_at_seq: int | None = None
    request: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("user_id", "session_id", "workspace_id"):
            check_name(getattr(self, name), name)

    def queued(self, definition: dict[str, Any], *, remembers: bool = False) -> Queued:
        """The run's first event."""
        return Queued(
            agent=self.agent, user_id=self.user_id, input=self.input, session_id=self.session_id,
            workspace_id=self.workspace_id, metadata=self.metadata, definition=definition,
            parent_run_id=self.parent_run_id, forked_at_seq=self.forked_at_seq,
            traceparent=self.traceparent, key_id=self.key_id, multitask_strategy=self.multitask_strategy,
            memory="session" if remembers and self.session_id else None,
        )  # fmt: skip

    def digest(self) -> bytes:
        """A digest of 32 bytes that all requests with one idempotency key must share."""
        if self.parent_run_id is not None:
            return _digest([self.parent_run_id, self.request])
        arguments = [self.agent, self.input, self.session_id, self.workspace_id, self.metadata]
        if self.multitask_strategy != "enqueue":  # only if given, so that keys of an earlier release match
            arguments.append(self.multitask_strategy)
        if self.memory is not None:
            arguments.append(self.memory)
        return _digest(arguments)


def _digest(arguments: list[Any]) -> bytes:
    return hashlib.sha256(msgspec.json.encode(arguments, order="deterministic")).digest()
