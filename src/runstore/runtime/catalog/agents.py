"""The agents that this process can run, as its configuration names them."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

import msgspec
from msgspec import Struct

from runstore.core.codec import TOO_DEEP, to_json
from runstore.core.depth import is_deeper
from runstore.core.errors import AgentError, AgentNotFound, ConfigError, RunstoreError
from runstore.core.hierarchy import ROOT
from runstore.core.limits import MAX_RUN_TIMEOUT_S
from runstore.core.ports import Agent, RunContext
from runstore.runtime.catalog.definitions import recorded
from runstore.runtime.catalog.output_schema import check_schema
from runstore.runtime.catalog.references import missing
from runstore.runtime.code.agent import CodeAgent
from runstore.runtime.code.process import CodeLimits
from runstore.runtime.generator_agent import GeneratorAgent
from runstore.runtime.loops import Isolation
from runstore.runtime.strands.models import MODEL_NAMES, SCRIPTED
from runstore.runtime.user_code import REFERENCE, call, check_call, in_thread, load

if TYPE_CHECKING:
    from runstore.runtime.catalog.teams import Teams

RUN_CODE = "run-code"  # the one agent that runs what it is sent
ONLY_RUN_CODE = f"the agent {RUN_CODE!r}, and no other, has `code = true`"
AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # no slash: that divides an agent's path
MAX_TOKENS = 10_000_000  # of one scripted answer
MAX_TOKENS_PER_S = 1_000_000
MIN_MEMORY_MB = 100  # a process that does nothing has half of it
MAX_MEMORY_MB = 1 << 20
MAX_MODEL_ATTEMPTS = 10  # they take 4 minutes
CODE_TIMEOUT_S = 300.0  # of a run of code whose agent has no `run_timeout_s`
MAX_OPEN_FILES = 65_536
MAX_PROCESSES = 4_096
MAX_OUTPUT_MB = 1_024
NOTHING: Mapping[str, Any] = {}
NO_LLM = "This is no LLM: a script says the words of the input."


def _check_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise ValueError(f"`{name}` must be from {least:g} to {most:,}")


def _check_reference(name: str, reference: str) -> None:
    if not REFERENCE.fullmatch(reference):
        raise ValueError(f"`{name}`: {reference!r} must be of the form 'package.module:function'")


class AgentSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One `[agents.name]` table: a model with its settings, or a factory that builds the agent."""

    model: str | None = None
    model_args: dict[str, Any] = {}
    system_prompt: str | None = None
    tools: list[str] = []  # package.module:function
    at_most_once: list[str] = []  # names of tools that no new attempt may call again
    factory: str | None = None  # package.module:function
    code: bool = False  # runs the Python that it is sent
    tokens: int | None = None  # scripted: exactly so many llm.token events
    tokens_per_s: float | None = None  # scripted; 0 or nothing: as fast as they go
    description: str | None = None
    run_timeout_s: float | None = None
    idle_timeout_s: float | None = None  # without a word from the agent
    isolation: Isolation = "loop"
    memory_limit_mb: int | None = None  # of the agent's process, in MiB
    model_attempts: int | None = None  # calls of a throttled model in all; nothing: 3
    on_worker_lost: Literal["resume", "restart", "fail"] | None = None  # nothing: "resume", of code "fail"
    memory: Literal["session"] | None = None  # begin with the messages of the session's earlier runs
    output_schema: dict[str, Any] | None = None  # a JSON Schema that results are held against
    cpu_limit_s: int | None = None  # code: seconds of computing; this and what follows has a default there
    file_limit_mb: int | None = None  # code: MiB of one file
    open_files_limit: int | None = None  # code
    process_limit: int | None = None  # code: processes and threads
    output_limit_mb: int | None = None  # code: MiB that it may say

    def __post_init__(self) -> None:
        if (self.model is not None) + (self.factory is not None) + self.code != 1:
            raise ValueError("an agent needs a `model` or a `factory`, or `code = true`, and not both")
        if self.model is not None and self.model not in MODEL_NAMES:
            raise ValueError(f"`model`: there is no model {self.model!r}; there are {', '.join(MODEL_NAMES)}")
        self._check_that_nothing_is_ignored()
        if self.factory is not None:
            _check_reference("factory", self.factory)
        for tool in self.tools:
            _check_reference("tools", tool)
        _check_range("tokens", self.tokens, 1, MAX_TOKENS)
        _check_range("tokens_per_s", self.tokens_per_s, 0, MAX_TOKENS_PER_S)
        _check_range("run_timeout_s", self.run_timeout_s, 0.001, MAX_RUN_TIMEOUT_S)
        _check_range("idle_timeout_s", self.idle_timeout_s, 0.1, MAX_RUN_TIMEOUT_S)
        _check_range("memory_limit_mb", self.memory_limit_mb, MIN_MEMORY_MB, MAX_MEMORY_MB)
        _check_range("model_attempts", self.model_attempts, 1, MAX_MODEL_ATTEMPTS)
        _check_range("cpu_limit_s", self.cpu_limit_s, 1, MAX_RUN_TIMEOUT_S)
        _check_range("file_limit_mb", self.file_limit_mb, 1, MAX_MEMORY_MB)
        _check_range("open_files_limit", self.open_files_limit, 16, MAX_OPEN_FILES)
        _check_range("process_limit", self.process_limit, 1, MAX_PROCESSES)
        _check_range("output_limit_mb", self.output_limit_mb, 1, MAX_OUTPUT_MB)
        for name in ("model_args", "output_schema"):
            if is_deeper(to_json(getattr(self, name))):
                raise ValueError(TOO_DEEP.format(f"`{name}`"))
        if self.output_schema is not None:
            check_schema(self.output_schema)

    @property
    def code_limits(self) -> CodeLimits:
        """What its code may take."""
        named = {
            "cpu_s": self.cpu_limit_s, "memory_mb": self.memory_limit_mb, "file_mb": self.file_limit_mb,
            "open_files": self.open_files_limit, "processes": self.process_limit,
            "output_mb": self.output_limit_mb,
        }  # fmt: skip
        return CodeLimits(**{name: value for name, value in named.items() if value is not None})

    def _check_that_nothing_is_ignored(self) -> None:
        if self.isolation != "process" and not self.code and self.memory_limit_mb is not None:
            raise ValueError("`memory_limit_mb` is for isolation = 'process' only")
        for setting in OF_CODE:
            if not self.code and getattr(self, setting) is not None:
                raise ValueError(f"`{setting}` is for code = true only")
        if self.code and (self.isolation == "thread" or self.on_worker_lost == "resume"):
            setting = "isolation" if self.isolation == "thread" else "on_worker_lost"
            raise ValueError(f"`{setting}`: code runs in a process of its own, and begins from the beginning")
        if self.model != SCRIPTED and (self.tokens is not None or self.tokens_per_s is not None):
            raise ValueError(f"`tokens` and `tokens_per_s` are for model = {SCRIPTED!r} only")
        if self.model == SCRIPTED and self.model_args:
            raise ValueError("the scripted model takes no `model_args`, only `tokens` and `tokens_per_s`")
        for setting in ("model_args", "model_attempts", "system_prompt", "tools", "at_most_once"):
            if self.model is None and getattr(self, setting):
                raise ValueError(f"`{setting}` is for agents with a `model`; a factory sets it itself")
        if self.at_most_once and not self.tools:
            raise ValueError("`at_most_once` names some of the agent's `tools`, and it has none")
        if self.code and self.memory is not None:
            raise ValueError("`memory`: code has no messages to begin with")


OF_CODE = ("cpu_limit_s", "file_limit_mb", "open_files_limit", "process_limit", "output_limit_mb")
BUILT_IN: dict[str, AgentSpec] = {
    "demo": AgentSpec(model=SCRIPTED, tokens_per_s=20, description="A demonstration that needs no key.")
}


class AgentCatalog:
    """All agents, by name: the built-in `demo`, and the configured ones, which may replace it.

    Args:
        teams: what builds the agents of a run that holds a hierarchy of its own.

    Raises:
        ConfigError: a name that cannot stand in a URL and in an agent's path.
    """

    def __init__(
        self,
        specs: Mapping[str, AgentSpec],
        *,
        run_timeout_s: float | None = None,
        teams: "Teams | None" = None,
    ) -> None:
        self._teams = teams
        self._run_timeout_s = run_timeout_s  # of agents that have none of their own
        for name in specs:
            if not AGENT_NAME.fullmatch(name):
                raise ConfigError(
                    f"agent name {name[:100]!r} must be 1 to 64 letters, digits, '_', '.' or '-', "
                    "beginning with a letter or digit"
                )
            if (name == RUN_CODE) != specs[name].code:
                raise ConfigError(f"agent {name!r}: {ONLY_RUN_CODE}")
        self._specs = {**BUILT_IN, **specs}
        self._taken: WeakSet[Any] = WeakSet()  # strands agents that a run has had
        self._blocking: set[str] = set()  # agents that may hold their loop while they are built
        self._strands_is_there = False

    def names(self) -> list[str]:
        return sorted(self._specs)

    def spec(self, name: str) -> AgentSpec:
        """One agent's settings.

        Raises:
            AgentNotFound: it has none; the message names those that have.
        """
        try:
            return self._specs[name]
        except KeyError:
            known = ", ".join(self.names())
            raise AgentNotFound(f"there is no agent {name[:100]!r}; there are {known}") from None

    def isolation(self, name: str) -> Isolation:
        """Where its attempts run; an agent that is not there fails on the loop that all share."""
        spec = self._specs.get(name)
        if spec is None:
            return "loop"
        if name in self._blocking and spec.isolation == "loop":
            return "thread"
        return "process" if spec.code else spec.isolation

    @property
    def needs_processes(self) -> bool:
        """Whether an agent runs in a process of its own."""
        return any(self.isolation(name) == "process" for name in self._specs)

    @property
    def runs_code(self) -> bool:
        """Whether it runs what it is sent."""
        return RUN_CODE in self._specs

    def definition(self, name: str) -> dict[str, Any]:
        """The settings as JSON without defaults and secrets: what `lifecycle.queued` keeps for ever."""
        spec = self.spec(name)
        definition: dict[str, Any] = recorded(msgspec.to_builtins(spec))
        if spec.output_schema is not None:
            definition["output_schema"] = spec.output_schema  # as it is: it has no secrets
        if spec.code:
            definition.setdefault("run_timeout_s", min(CODE_TIMEOUT_S, self._run_timeout_s or CODE_TIMEOUT_S))
            definition.setdefault("on_worker_lost", "fail")
        return self.timed(definition)

    def timed(self, definition: dict[str, Any]) -> dict[str, Any]:
        """A definition with the timeout of those that have none of their own."""
        if self._run_timeout_s is not None:
            definition.setdefault("run_timeout_s", self._run_timeout_s)
        return definition

    def describe(self) -> list[dict[str, Any]]:
        """What a client may know of each agent."""
        return [_description(name, self._specs[name]) for name in self.names()]

    def look_up(self, folder: Path | None = None) -> None:
        """Look for the code of all agents, importing nothing.

        Args:
            folder: of the configuration, where Python will look first.

        Raises:
            ConfigError: what is missing, and in which setting.
        """
        for setting, reference in self._references():
            if (reason := missing(reference, folder)) is not None:
                raise ConfigError(f"cannot import {reference!r}: {reason}", setting=setting)

    async def check(self, *, processes: bool = False) -> None:
        """Import the code of all agents, and see that it can be called as it will be.

        Args:
            processes: also of agents in processes of their own, whose code else stays out of this one.

        Raises:
            ConfigError: what is wrong, and in which setting.
        """
        for name, spec in self._specs.items():
            if spec.isolation != "process" or processes:
                if spec.factory is not None:
                    with _told_of(f"agents.{name}.factory"):
                        check_call(await self._load_factory(name, spec.factory), spec.factory)
                if spec.tools:
                    with _told_of(f"agents.{name}.tools"):
                        tools = [await load(reference) for reference in spec.tools]
                        await self._have_strands()
                        from runstore.runtime.strands.models import names_of

                        names = names_of(tools)
                    with _told_of(f"agents.{name}.at_most_once"):
                        _check_names(spec, names)
        if self._teams is not None:
            for name in self._teams.tools:
                with _told_of(f"hierarchies.tools.{name}"):
                    await self._teams.check_tool(name)

    def _references(self) -> Iterator[tuple[str, str]]:
        """Each setting that names code, and what it names."""
        for name, spec in self._specs.items():
            if spec.factory is not None:
                yield f"agents.{name}.factory", spec.factory
            for tool in spec.tools:
                yield f"agents.{name}.tools", tool
        for name, reference in self._teams.tools.items() if self._teams else ():
            yield f"hierarchies.tools.{name}", reference

    async def build(self, name: str, ctx: RunContext, definition: Mapping[str, Any] = NOTHING) -> Agent:
        """A new agent for one attempt of a run.

        Args:
            definition: what the run holds of its agent. A hierarchy is built from there; any other agent
                from this process's configuration, which has its secrets.

        Raises:
            AgentNotFound: there is none of this name.
            AgentError: the user's code failed, or made something that is no agent.
            ConfigError: the model or a tool cannot be made.
        """
        if self._teams is not None and "hierarchy" in definition:
            await self._have_strands()
            from runstore.runtime.strands.agent import StrandsAgent

            product = await self._teams.build(definition)
            at_most_once = self._teams.at_most_once.union(definition.get("at_most_once", ()))
            return StrandsAgent(product, ctx, self._taken, root=ROOT, at_most_once=at_most_once)
        spec = self.spec(name)
        if spec.code:
            return CodeAgent(spec.code_limits, ctx)
        made = await (self._configured(name, spec) if spec.factory is None else self._made(name, spec, ctx))
        if inspect.isasyncgenfunction(made):
            return GeneratorAgent(made, ctx)
        from runstore.runtime.strands.agent import PRODUCTS, StrandsAgent

        if isinstance(made, PRODUCTS):
            return StrandsAgent(made, ctx, self._taken, at_most_once=frozenset(spec.at_most_once))
        raise AgentError(f"agent {name!r}: its factory returned {_what(made)}; {EXPECTED}")

    async def _have_strands(self) -> None:
        """Import strands, which takes a second or more, away from the loop that other runs share."""
        if not self._strands_is_there:
            await in_thread(partial(import_module, "runstore.runtime.strands.agent"), "importing strands")
            self._strands_is_there = True

    async def _made(self, name: str, spec: AgentSpec, ctx: RunContext) -> Any:
        """What a factory makes; an async generator function is taken as it is."""
        factory = await self._load_factory(name, spec.factory or "")
        if inspect.isasyncgenfunction(factory):
            return factory
        await self._have_strands()  # first: it watches what agents are made
        return await call(factory, ctx, f"factory {spec.factory!r}")

    async def _load_factory(self, name: str, reference: str) -> Any:
        factory = await load(reference)
        if not callable(factory) or hasattr(factory, "stream_async"):
            raise AgentError(
                f"{reference!r} is {_what(factory)}, not a function that builds a new agent for each run"
            )
        if inspect.iscoroutinefunction(factory) and MCP in sys.modules:
            self._blocking.add(name)  # an agent waits for its MCP servers to start, wherever it is made
        return factory

    async def _configured(self, name: str, spec: AgentSpec) -> Any:
        await self._have_strands()
        from runstore.runtime.strands.models import build_agent, build_model

        tools = [await load(reference) for reference in spec.tools]

        def build() -> Any:
            scripted = {"tokens": spec.tokens, "tokens_per_s": spec.tokens_per_s or 0}
            model = build_model(spec.model or "", scripted if spec.model == SCRIPTED else spec.model_args)
            return build_agent(
                name, model, system_prompt=spec.system_prompt, tools=tools, description=spec.description,
                attempts=spec.model_attempts,
            )  # fmt: skip

        # A provider's package may take seconds to import; the scripted model takes 0.1 ms.
        agent = build() if spec.model == SCRIPTED else await in_thread(build, f"building agent {name!r}")
        _check_names(spec, agent.tool_names)
        return agent


def _check_names(spec: AgentSpec, tools: Sequence[str]) -> None:
    """A misspelled name would protect nothing."""
    for tool in spec.at_most_once:
        if tool not in tools:
            known = ", ".join(tools)
            raise ConfigError(f"at_most_once: the agent has no tool {tool!r}; it has {known}")


@contextmanager
def _told_of(setting: str) -> Iterator[None]:
    """Whatever is wrong in the block is wrong with a setting."""
    try:
        yield
    except RunstoreError as error:
        raise ConfigError(str(error), setting=setting) from error


MCP = "strands.tools.mcp"  # imported by agents that have MCP clients
EXPECTED = "expected a strands Agent, Graph or Swarm, or an async generator function"


def _what(made: Any) -> str:
    if inspect.isasyncgen(made):
        return "an async generator, which is the function already called (return the function itself)"
    return "None" if made is None else f"an object of type {type(made).__name__}"


def _description(name: str, spec: AgentSpec) -> dict[str, Any]:
    described = {"name": name, "description": spec.description, "model": spec.model}
    return {**described, "note": NO_LLM} if spec.model == SCRIPTED else described
