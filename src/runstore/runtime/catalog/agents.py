"""The agents of this process, as its configuration names them."""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakSet

import msgspec
from msgspec.structs import replace

from runstore.core.definitions import recorded
from runstore.core.errors import AgentError, AgentNotFound, ConfigError, RunstoreError
from runstore.core.hierarchy import ROOT
from runstore.core.ports import Agent, RunContext
from runstore.runtime.catalog.references import missing
from runstore.runtime.catalog.specs import (
    AGENT_NAME,
    ONLY_RUN_CODE,
    RUN_CODE,
    AgentSpec,
    ConfiguredModel,
    Factory,
    SubmittedCode,
)
from runstore.runtime.catalog.teams import Teams
from runstore.runtime.code.agent import CodeAgent
from runstore.runtime.generator_agent import GeneratorAgent
from runstore.runtime.loops.agent_loops import Isolation
from runstore.runtime.strands.models import SCRIPTED
from runstore.runtime.user_code import call, check_call, in_thread, load

CODE_TIMEOUT_S = 300.0  # seconds for submitted code whose agent has no `run_timeout_s`
FORKABLE = "an agent with a `model` in the configuration, and not the scripted model"
NOTHING: Mapping[str, Any] = {}
MCP = "strands.tools.mcp"  # imported by agents that have MCP clients
EXPECTED = "expected a strands Agent, Graph or Swarm, or an async generator function"
NO_LLM = "This is not an LLM: a script says the words of the input."
BUILT_IN: dict[str, AgentSpec] = {
    "demo": AgentSpec(model=SCRIPTED, tokens_per_s=20, description="A demonstration that needs no key.")
}


class AgentCatalog:
    """All agents by name: the built-in `demo`, and the configured ones, which may replace it.

    Args:
        teams: builds the agents of a run that holds its own hierarchy.

    Raises:
        ConfigError: a name is not allowed in a URL or in an agent's path.
    """

    def __init__(
        self,
        specs: Mapping[str, AgentSpec],
        *,
        run_timeout_s: float | None = None,
        teams: Teams | None = None,
    ) -> None:
        self._teams = teams
        self._run_timeout_s = run_timeout_s  # default: an agent may have its own
        for name in specs:
            if not AGENT_NAME.fullmatch(name):
                raise ConfigError(
                    f"agent name {name[:100]!r} must be 1 to 64 letters, digits, '_', '.' or '-', "
                    "beginning with a letter or digit"
                )
            if (name == RUN_CODE) != specs[name].code:
                raise ConfigError(f"agent {name!r}: {ONLY_RUN_CODE}")
        self._specs = {**BUILT_IN, **specs}
        self._taken: WeakSet[Any] = WeakSet()  # strands agents that were given to a run
        self._blocking: set[str] = set()  # agents that may block their loop while they are built
        self._strands_is_there = False

    def names(self) -> list[str]:
        return sorted(self._specs)

    def spec(self, name: str) -> AgentSpec:
        """One agent's settings.

        Raises:
            AgentNotFound: there is no such agent; the message lists the known ones.
        """
        try:
            return self._specs[name]
        except KeyError:
            known = ", ".join(self.names())
            raise AgentNotFound(f"there is no agent {name[:100]!r}; there are {known}") from None

    def spec_of(self, name: str, definition: Mapping[str, Any]) -> AgentSpec:
        """One agent's settings, with what a fork's definition changes.

        Raises:
            AgentNotFound: there is no such agent.
            ConfigError: a change has no effect on this agent.
        """
        spec = self.spec(name)
        changes: Mapping[str, Any] = definition.get("fork", NOTHING)
        if not changes:
            return spec
        if not isinstance(spec.source, ConfiguredModel) or ("model_id" in changes and spec.model == SCRIPTED):
            raise ConfigError(f"agent {name!r}: another model_id or system_prompt is only for {FORKABLE}")
        changed: dict[str, Any] = {}
        if "model_id" in changes:
            changed["model_args"] = {**spec.model_args, "model_id": changes["model_id"]}
        if "system_prompt" in changes:
            changed["system_prompt"] = changes["system_prompt"]
        return replace(spec, **changed)

    def isolation(self, name: str) -> Isolation:
        """The isolation level of an agent's attempts; an unknown agent fails on the shared loop."""
        spec = self._specs.get(name)
        if spec is None:
            return "loop"
        return "thread" if name in self._blocking and spec.runs_in == "loop" else spec.runs_in

    @property
    def needs_processes(self) -> bool:
        """Whether an agent runs in a process of its own."""
        return any(self.isolation(name) == "process" for name in self._specs)

    @property
    def runs_code(self) -> bool:
        """Whether the agent runs submitted code."""
        return RUN_CODE in self._specs

    def definition(self, name: str) -> dict[str, Any]:
        """The settings as JSON without defaults and secrets, which `lifecycle.queued` keeps permanently."""
        spec = self.spec(name)
        definition: dict[str, Any] = recorded(msgspec.to_builtins(spec))
        if spec.output_schema is not None:
            definition["output_schema"] = spec.output_schema  # unchanged, as it has no secrets
        if spec.code:
            definition.setdefault("run_timeout_s", min(CODE_TIMEOUT_S, self._run_timeout_s or CODE_TIMEOUT_S))
            definition.setdefault("on_worker_lost", "fail")
        return self.timed(definition)

    def team_definition(self, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """The definition of a new run of the hierarchy that an earlier run holds.

        Raises:
            ConfigError: it cannot run here any more.
        """
        if self._teams is None:
            raise ConfigError("this process has no hierarchies")
        return self._teams.definition_again(earlier)

    def timed(self, definition: dict[str, Any]) -> dict[str, Any]:
        """A definition, with the default timeout unless it has its own."""
        if self._run_timeout_s is not None:
            definition.setdefault("run_timeout_s", self._run_timeout_s)
        return definition

    def describe(self) -> list[dict[str, Any]]:
        """The public information on each agent."""
        return [_description(name, self._specs[name]) for name in self.names()]

    def look_up(self, folder: Path | None = None) -> None:
        """Check that the code of all agents exists, without importing it.

        Args:
            folder: of the configuration, where Python looks first.

        Raises:
            ConfigError: the missing code, and its setting.
        """
        for setting, reference in self._references():
            if (reason := missing(reference, folder)) is not None:
                raise ConfigError(f"cannot import {reference!r}: {reason}", setting=setting)

    async def check(self, *, processes: bool = False) -> None:
        """Import the code of all agents, and check that it can be called.

        Args:
            processes: include agents in processes of their own, whose code otherwise stays out of this one.

        Raises:
            ConfigError: the fault, and its setting.
        """
        for name, spec in self._specs.items():
            if spec.isolation != "process" or processes:
                await self._check(name, spec)
        if self._teams is not None:
            for name in self._teams.tools:
                with _setting(f"hierarchies.tools.{name}"):
                    await self._teams.check_tool(name)

    async def _check(self, name: str, spec: AgentSpec) -> None:
        match spec.source:
            case Factory(reference):
                with _setting(f"agents.{name}.factory"):
                    check_call(await self._load_factory(name, reference), reference)
            case ConfiguredModel(tools=[_, *_]) as source:
                with _setting(f"agents.{name}.tools"):
                    tools = [await load(reference) for reference in source.tools]
                    await self._have_strands()
                    from runstore.runtime.strands.models import names_of

                    names = names_of(tools)
                for setting in ("at_most_once", "approve"):
                    with _setting(f"agents.{name}.{setting}"):
                        _check_names(setting, getattr(spec, setting), names)

    def _references(self) -> Iterator[tuple[str, str]]:
        """Each setting that names code, with its reference."""
        for name, spec in self._specs.items():
            for field, reference in spec.references():
                yield f"agents.{name}.{field}", reference
        for name, reference in self._teams.tools.items() if self._teams else ():
            yield f"hierarchies.tools.{name}", reference

    async def build(self, name: str, ctx: RunContext, definition: Mapping[str, Any] = NOTHING) -> Agent:
        """A new agent for one attempt of a run.

        Args:
            definition: the run's copy of its agent's definition. A hierarchy is built from it; any other
                agent from this process's configuration, which has the secrets.

        Raises:
            AgentNotFound: there is no agent of this name.
            AgentError: the user's code failed, or built something else than an agent.
            ConfigError: the model or a tool cannot be built.
        """
        if self._teams is not None and "hierarchy" in definition:
            return await self._build_team(self._teams, ctx, definition)
        spec = self.spec_of(name, definition)
        match spec.source:
            case SubmittedCode(limits):
                return CodeAgent(limits, ctx)
            case Factory(reference):
                made = await self._made(name, reference, ctx)
            case ConfiguredModel() as source:
                made = await self._configured(name, source, spec.description)
        if inspect.isasyncgenfunction(made):
            _check_names("approve", spec.approve, ())
            return GeneratorAgent(made, ctx, record_requests=spec.record_requests)
        from runstore.runtime.strands.agent import PRODUCTS, StrandsAgent

        if isinstance(made, PRODUCTS):
            once, approve = frozenset(spec.at_most_once), frozenset(spec.approve)
            agent = StrandsAgent(
                made, ctx, self._taken,
                at_most_once=once, approve=approve, record_requests=spec.record_requests,
            )  # fmt: skip
            _check_names("approve", spec.approve, agent.tool_names)
            return agent
        raise AgentError(f"agent {name!r}: its factory returned {_what(made)}; {EXPECTED}")

    async def _build_team(self, teams: Teams, ctx: RunContext, definition: Mapping[str, Any]) -> Agent:
        await self._have_strands()
        from runstore.runtime.strands.agent import StrandsAgent

        return StrandsAgent(
            await teams.build(definition),
            ctx,
            self._taken,
            root=ROOT,
            at_most_once=teams.at_most_once.union(definition.get("at_most_once", ())),
            approve=teams.approve.union(definition.get("approve", ())),
            record_requests=teams.record_requests and definition.get("record_requests", True),
        )

    async def _have_strands(self) -> None:
        """Import strands, which takes a second or more, off the loop that other runs share."""
        if not self._strands_is_there:
            await in_thread(partial(import_module, "runstore.runtime.strands.agent"), "importing strands")
            self._strands_is_there = True

    async def _made(self, name: str, reference: str, ctx: RunContext) -> Any:
        """Call a factory; an async generator function is returned as it is."""
        factory = await self._load_factory(name, reference)
        if inspect.isasyncgenfunction(factory):
            return factory
        await self._have_strands()  # import first: it tracks the agents that are made
        return await call(factory, ctx, f"factory {reference!r}")

    async def _load_factory(self, name: str, reference: str) -> Any:
        factory = await load(reference)
        if not callable(factory) or hasattr(factory, "stream_async"):
            raise AgentError(
                f"{reference!r} is {_what(factory)}, not a function that builds a new agent for each run"
            )
        if inspect.iscoroutinefunction(factory) and MCP in sys.modules:
            self._blocking.add(name)  # an agent waits for its MCP servers to start
        return factory

    async def _configured(self, name: str, source: ConfiguredModel, description: str | None) -> Any:
        await self._have_strands()
        from runstore.runtime.strands.models import build_agent, build_model

        tools = [await load(reference) for reference in source.tools]

        def build() -> Any:
            model = build_model(source.model, source.arguments)
            return build_agent(
                name, model, system_prompt=source.system_prompt, tools=tools, description=description,
                attempts=source.model_attempts,
            )  # fmt: skip

        # A provider's package may take seconds to import; the scripted model takes 0.1 ms.
        agent = build() if source.scripted else await in_thread(build, f"building agent {name!r}")
        _check_names("at_most_once", source.at_most_once, agent.tool_names)
        return agent


def _check_names(setting: str, names: Sequence[str], tools: Sequence[str]) -> None:
    """Refuse a misspelled name, which would protect no tool."""
    for tool in names:
        if tool not in tools:
            known = ", ".join(tools) or "none"
            raise ConfigError(f"{setting}: the agent has no tool {tool!r}; it has {known}")


@contextmanager
def _setting(setting: str) -> Iterator[None]:
    """Name the setting in an error that the block raises."""
    try:
        yield
    except RunstoreError as error:
        raise ConfigError(str(error), setting=setting) from error


def _what(made: Any) -> str:
    if inspect.isasyncgen(made):
        return "an async generator, which is the function already called (return the function itself)"
    return "None" if made is None else f"an object of type {type(made).__name__}"


def _description(name: str, spec: AgentSpec) -> dict[str, Any]:
    described = {"name": name, "description": spec.description, "model": spec.model}
    return {**described, "note": NO_LLM} if spec.model == SCRIPTED else described
