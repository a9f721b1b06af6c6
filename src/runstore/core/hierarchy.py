"""A user's hierarchy of agents, and the checks that it can run. Pure.

A global supervisor delegates to teams, and each team's supervisor to its workers. Names of teams and workers
are the names of tools for the agents above them, and the parts of an agent's path:
`global/TestTeam/TestWorker`.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from runstore.core.codec import json_size

MAX_TEAMS = 20  # teams of one hierarchy: at most 421 agents with their workers
MAX_WORKERS = 20  # workers of one team: with more tools to choose from, a model chooses badly
MAX_TOOLS = 50  # tools of one worker
MAX_PROMPT = 20_000  # characters of one prompt
MAX_ROLE = 500  # characters
MAX_HIERARCHY_NAME = 255  # characters
MAX_HIERARCHY_BYTES = 256 << 10  # bytes as JSON: each run holds a copy, in an event of 1 MiB at most

ROOT = "global"  # the path of the global supervisor
# Prefix of the agent name of a hierarchy's runs, before its id; configured names have no colon.
AGENT = "hierarchy:"

MEMBER_NAME = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"  # `(?!\n)` stands for `\Z`, which JavaScript cannot read
MemberName = Annotated[
    str, Meta(pattern=MEMBER_NAME, description="A name that model providers accept for a tool.")
]
Prompt = Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT)]


class Worker(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An agent that does the work. `role`: its description for its supervisor."""

    name: MemberName
    system_prompt: Prompt
    role: Annotated[str, Meta(max_length=MAX_ROLE)] = ""
    tools: Annotated[list[str], Meta(max_length=MAX_TOOLS)] = []
    model: str | None = None


class Team(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A supervisor and its workers. `model`: the supervisor's."""

    name: MemberName
    supervisor_prompt: Prompt
    workers: Annotated[list[Worker], Meta(min_length=1, max_length=MAX_WORKERS)]
    model: str | None = None


class Hierarchy(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A global supervisor and its teams. `model`: the global supervisor's.

    `approve`: tools of its workers whose calls a person has to approve.
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_HIERARCHY_NAME)]
    global_prompt: Prompt
    teams: Annotated[list[Team], Meta(min_length=1, max_length=MAX_TEAMS)]
    model: str | None = None
    approve: Annotated[list[str], Meta(max_length=MAX_TEAMS * MAX_WORKERS * MAX_TOOLS)] = []


T = TypeVar("T", Worker, Team, Hierarchy)


class Problem(NamedTuple):
    """Why a hierarchy cannot run, and the place of the fault: `$.teams[0].workers[1].tools[0]`."""

    field: str
    message: str


def check_size(hierarchy: Hierarchy) -> Iterator[Problem]:
    """Whether the hierarchy is too large to be stored."""
    if (size := json_size(hierarchy)) > MAX_HIERARCHY_BYTES:
        yield Problem("$", f"has {size:,} bytes as JSON; the limit is {MAX_HIERARCHY_BYTES:,} bytes")


def problems(hierarchy: Hierarchy, models: Collection[str], tools: Collection[str]) -> Iterator[Problem]:
    """Invalid names. `models`, `tools`: those that the server allows."""
    yield from _model("$", hierarchy.model, models)
    yield from _duplicates("$.teams", ".name", [team.name for team in hierarchy.teams])
    for t, team in enumerate(hierarchy.teams):
        yield from _model(f"$.teams[{t}]", team.model, models)
        yield from _duplicates(f"$.teams[{t}].workers", ".name", [worker.name for worker in team.workers])
        for w, worker in enumerate(team.workers):
            path = f"$.teams[{t}].workers[{w}]"
            yield from _model(path, worker.model, models)
            yield from _duplicates(f"{path}.tools", "", worker.tools)
            for n, tool in enumerate(worker.tools):
                if tool not in tools:
                    yield Problem(f"{path}.tools[{n}]", _unknown("tool", tool, tools))
    yield from _duplicates("$.approve", "", hierarchy.approve)
    for n, tool in enumerate(hierarchy.approve):
        if tool not in (named := tools_of(hierarchy)):
            yield Problem(f"$.approve[{n}]", _unknown("tool", tool, named))


def with_models(hierarchy: Hierarchy, default: str) -> Hierarchy:
    """The hierarchy with an explicit model for every agent."""

    def settled(member: T, **changes: Any) -> T:
        return replace(member, model=member.model or default, **changes)

    teams = [settled(team, workers=[settled(worker) for worker in team.workers]) for team in hierarchy.teams]
    return settled(hierarchy, teams=teams)


def models_of(hierarchy: Hierarchy) -> set[str]:
    """The models that the hierarchy's agents name."""
    named = [hierarchy.model]
    for team in hierarchy.teams:
        named += [team.model, *(worker.model for worker in team.workers)]
    return {model for model in named if model is not None}


def tools_of(hierarchy: Hierarchy) -> set[str]:
    """The tools that the hierarchy's workers name."""
    return {tool for team in hierarchy.teams for worker in team.workers for tool in worker.tools}


def agent_name(hierarchy_id: str) -> str:
    """The agent name of a hierarchy's runs."""
    return AGENT + hierarchy_id


def hierarchy_of(agent: str) -> str | None:
    """The id of the hierarchy behind an agent's name; None for an agent of another kind."""
    return agent.removeprefix(AGENT) if agent.startswith(AGENT) else None


def _model(path: str, model: str | None, models: Collection[str]) -> Iterator[Problem]:
    if model is not None and model not in models:
        yield Problem(f"{path}.model", _unknown("model", model, models))


def _duplicates(path: str, field: str, names: Sequence[str]) -> Iterator[Problem]:
    """Duplicates. Each name becomes a tool of the agent above, and strands equates `a-b` and `a_b`."""
    taken = [name.replace("-", "_") for name in names]
    for n, name in enumerate(names):
        if (first := taken.index(taken[n])) < n:
            message = f"{name[:100]!r} is taken by {path}[{first}]"
            if names[first] != name:
                message += f", {names[first][:100]!r}: '-' and '_' are the same in a tool's name"
            yield Problem(f"{path}[{n}]{field}", message)


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    there_are = f"there are {', '.join(sorted(known))}" if known else "the server allows none"
    return f"there is no {kind} {name[:100]!r}; {there_are}"
