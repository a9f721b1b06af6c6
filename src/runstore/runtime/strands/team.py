"""A hierarchy as strands agents: agents as tools, three levels deep, and a new agent for each call."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from strands import Agent
from strands import tool as as_tool
from strands.hooks import BeforeToolCallEvent
from strands.models import Model
from strands.types.tools import AgentTool, ToolGenerator, ToolSpec, ToolUse
from typing_extensions import override

from runstore.core.errors import ConfigError
from runstore.core.hierarchy import ROOT, Hierarchy, Team, Worker
from runstore.runtime.strands.models import build_agent


class TeamModel(NamedTuple):
    """The strands models behind one model name. They hold no conversation, so agents share them.

    `supervising` differs only for the scripted model, whose supervisors delegate to all members at once.
    """

    supervising: Model
    working: Model
    attempts: int | None


Models = Mapping[Any, TeamModel]


class Delegate(AgentTool):
    """An agent of a hierarchy as its supervisor's tool. Each call gets an agent of its own.

    So of two calls, one after the other or at once, neither knows of the other's; a strands agent as a tool
    refuses the second of two calls at once.
    """

    def __init__(self, name: str, description: str, make: Callable[[], Agent]) -> None:
        super().__init__()
        self._name = name
        self._description = description
        self._make = make

    @property
    @override
    def tool_name(self) -> str:
        return self._name

    @property
    @override
    def tool_type(self) -> str:
        return "agent"

    @property
    @override
    def tool_spec(self) -> ToolSpec:
        task = {"type": "string", "description": "The task, with all that is needed to understand it."}
        schema = {"type": "object", "properties": {"input": task}, "required": ["input"]}
        return {"name": self._name, "description": self._description, "inputSchema": {"json": schema}}

    def engage(self) -> AgentTool:
        """A new agent for one call."""
        return self._make().as_tool(name=self._name, description=self._description)

    @override
    async def stream(
        self, tool_use: ToolUse, invocation_state: dict[str, Any], **kwargs: Any
    ) -> ToolGenerator:
        async for event in self.engage().stream(tool_use, invocation_state, **kwargs):
            yield event


def build_team(hierarchy: Hierarchy, models: Models, tools: Mapping[str, Any]) -> Agent:
    """The global supervisor of a hierarchy, with all other members as its tools.

    Args:
        models: every model that an agent names.
        tools: every tool that a worker names: a function, or a strands tool of that name.

    Raises:
        ConfigError: strands cannot use a tool, or it has another name.
    """
    by_name = {name: named(name, tool) for name, tool in tools.items()}
    delegates = [
        Delegate(team.name, _members(team), partial(_team, team, models, by_name)) for team in hierarchy.teams
    ]
    return _supervisor(ROOT, models[hierarchy.model], hierarchy.global_prompt, delegates)


def _team(team: Team, models: Models, tools: Mapping[str, AgentTool]) -> Agent:
    delegates = [
        Delegate(worker.name, worker.role or worker.name, partial(_worker, worker, models, tools))
        for worker in team.workers
    ]
    return _supervisor(team.name, models[team.model], team.supervisor_prompt, delegates)


def _supervisor(name: str, model: TeamModel, prompt: str, delegates: Sequence[Delegate]) -> Agent:
    agent = build_agent(
        name, model.supervising, system_prompt=prompt, tools=delegates, description=None,
        attempts=model.attempts,
    )  # fmt: skip
    agent.add_hook(_engage, BeforeToolCallEvent)
    return agent


def _worker(worker: Worker, models: Models, tools: Mapping[str, AgentTool]) -> Agent:
    model = models[worker.model]
    return build_agent(
        worker.name, model.working, system_prompt=worker.system_prompt,
        tools=[tools[tool] for tool in worker.tools], description=worker.role or None,
        attempts=model.attempts,
    )  # fmt: skip


def _engage(event: BeforeToolCallEvent) -> None:
    """Replace a delegate by a new agent, before the hooks that record the call look at it."""
    if isinstance(event.selected_tool, Delegate):
        event.selected_tool = event.selected_tool.engage()


def _members(team: Team) -> str:
    """The description of a team for the global supervisor."""
    members = [f"{worker.name} ({worker.role})" if worker.role else worker.name for worker in team.workers]
    return f"The team {team.name}: {', '.join(members)}."


def named(name: str, tool: Any) -> AgentTool:
    """A tool under the name that hierarchies use.

    Raises:
        ConfigError: strands cannot use the tool, or it has another name.
    """
    if not isinstance(tool, AgentTool):
        if not callable(tool):
            kind = type(tool).__name__
            raise ConfigError(f"tool {name!r} must be a function or a strands tool, not {kind}")
        try:
            made: AgentTool = as_tool(name=name)(tool)
        except Exception as error:  # no schema can be made of its signature
            raise ConfigError(f"{tool.__qualname__} cannot be a tool: {error}") from error
        return made
    if tool.tool_name != name:
        raise ConfigError(f"tool {name!r} is a strands tool with the name {tool.tool_name!r}: use this name")
    return tool
