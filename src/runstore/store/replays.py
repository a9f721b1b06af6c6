"""Runs a recorded run's agent again, outside of the log.

A replay is not a run: it appends nothing, so it changes neither its run nor any list, usage or quota. Agent
and models are those of this process's configuration. Its tools get the results of the log, so no tool runs
before the first difference.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from msgspec import Struct

from runstore.core.content import asked_messages, message_with_bytes
from runstore.core.errors import AgentError, ConfigError, InvalidQuery
from runstore.core.ids import new_run_id
from runstore.core.model_requests import ModelRequest, RequestSummary
from runstore.core.ports import AgentResult, RunContext
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.holders import HELD, AttemptHolders
from runstore.runtime.memory.resume import is_root
from runstore.runtime.replay.dialogues import RecordedRun
from runstore.runtime.replay.follower import DIFFERS, Follower, ReplayDifference

TIMEOUT_S = 600.0  # seconds that a replay may take, unless the caller says otherwise
MAX_TIMEOUT_S = 86_400.0

Ended = Literal["success", "error", "difference"]


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """How to replay. `model`: the id of another model of the same provider.

    `live`: go on after the first difference. From an agent's first different call on, its tools run for real.
    `only_calls`: only tool calls and the ending count as differences, not what models say between them.
    """

    model: str | None = None
    live: bool = False
    only_calls: bool = False
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise ValueError(f"the timeout must be from 0 to {MAX_TIMEOUT_S:,.0f} seconds")


class Replayed(Struct, kw_only=True):
    """The outcome of a replay. `equal`: it did and said what its run did and said.

    `answered`: tool calls that got the result of the log. `called`: tools that ran for real. `ended`: how the
    replay ended: as an agent does, or at the first difference. `result`, `error`: of the agent.
    """

    run_id: str
    agent: str
    equal: bool
    difference: ReplayDifference | None
    answered: int
    called: int
    ended: Ended
    result: dict[str, Any] = {}
    error: str | None = None


def root_request(requests: Iterable[RequestSummary]) -> int:
    """The number of the first request of a run's own agent to its model.

    Raises:
        InvalidQuery: the agent has asked no model.
    """
    for each in requests:
        if each.call_id is None and is_root(each.agent):
            return each.n
    raise InvalidQuery(
        "the run begins with messages of its session, and the log does not have its requests to its model"
    )


def memory_in(request: ModelRequest, input: Any) -> list[dict[str, Any]]:
    """The messages of the session's earlier runs in the first request of a run with this input.

    Raises:
        InvalidQuery: one of them can no longer be read.
    """
    before = len(request.messages) - len(asked_messages(input))
    pairs = list(zip(request.messages[:before], request.sources[:before], strict=True))
    first = next((n for n, (_, source) in enumerate(pairs) if source.run_id is not None), before)
    found = [message for message, _ in pairs[first:]]
    if None in found:
        raise InvalidQuery("the run begins with messages of its session that can no longer be read")
    return found


def check_replayable(run: RecordedRun) -> None:
    """Raises InvalidQuery if a run cannot be replayed with any agent."""
    if run.status is None:
        raise InvalidQuery(f"run {run.run_id} has not ended")
    if "recorded" in run.definition:
        raise InvalidQuery(f"run {run.run_id} was recorded by a program, so it has no agent to run again")


async def replay(catalog: AgentCatalog, run: RecordedRun, options: ReplayOptions) -> Replayed:
    """Run a recorded run's agent again, as this process's configuration has it.

    Raises:
        InvalidQuery: the run cannot be replayed.
        AgentNotFound: this process has no agent of its name.
        AgentError: the agent cannot be built, or asks a person.
        ConfigError: the model cannot be changed, or the model or a tool cannot be built.
    """
    check_replayable(run)
    context = RunContext(
        new_run_id(), run.user_id, run.agent, run.session_id, run.metadata, 1,
        memory=[message_with_bytes(message) for message in run.memory],
    )  # fmt: skip
    follower = Follower(run, live=options.live, only_calls=options.only_calls)
    with _holding():
        agent: Any = await catalog.build(run.agent, context, _definition(run, options))
        if not hasattr(agent, "answer_from"):
            raise InvalidQuery(
                f"agent {run.agent!r} is a function or submitted code, which calls its tools and models "
                "itself; only strands agents, Graphs and Swarms can be replayed"
            )
        agent.answer_from(follower)
        return await run_beside(agent, run, follower, options.timeout_s)


async def run_beside(agent: Any, run: RecordedRun, follower: Follower, timeout_s: float) -> Replayed:
    """Run an agent to its end, or to its first difference from a run.

    Args:
        agent: a StrandsAgent that `follower` answers.

    Raises:
        InvalidQuery: the agent asks a person.
    """
    ended: Ended = "success"
    result: dict[str, Any] = {}
    error: str | None = None
    try:
        async with asyncio.timeout(timeout_s):
            done = await agent.run(run.input, [], follower)
        if not isinstance(done, AgentResult):
            raise InvalidQuery("the agent asks a person for an answer, which a replay cannot get")
        result = done.result
    except TimeoutError:
        ended, error = "error", f"timeout: the replay took more than {timeout_s:g} s"
    except AgentError as failure:
        if failure.code != DIFFERS:
            ended, error = "error", f"{failure.code}: {failure}"
        else:
            ended = "difference"
    if ended != "difference":
        with suppress(AgentError):  # the follower keeps the difference
            follower.end(ended, error, result)
    return Replayed(
        run_id=run.run_id, agent=run.agent, equal=follower.difference is None and ended != "difference",
        difference=follower.difference, answered=follower.answered, called=follower.called,
        ended=ended, result=result, error=error,
    )  # fmt: skip


def _definition(run: RecordedRun, options: ReplayOptions) -> dict[str, Any]:
    if options.model is None:
        return run.definition
    if "hierarchy" in run.definition:
        raise ConfigError("--model: a hierarchy has several models, and its definition names them")
    return {**run.definition, "fork": {**run.definition.get("fork", {}), "model_id": options.model}}


@contextmanager
def _holding() -> Iterator[None]:
    """Close what the agent opens, such as MCP servers, with the block."""
    held = AttemptHolders()
    token = HELD.set(held)
    try:
        yield
    finally:
        HELD.reset(token)
        held.close()
