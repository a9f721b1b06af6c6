"""Hierarchies in this process, with the models and tools that its configuration allows."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from runstore.core.definitions import recorded
from runstore.core.errors import AgentError, ConfigError
from runstore.core.hierarchy import Hierarchy, Problem, models_of, problems, tools_of, with_models
from runstore.core.limits import MAX_INPUT_TIMEOUT_S
from runstore.runtime.catalog.specs import ModelSpec
from runstore.runtime.strands.models import SCRIPTED, build_model
from runstore.runtime.user_code import REFERENCE, in_thread, load

if TYPE_CHECKING:
    from runstore.runtime.strands.team import TeamModel

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _team_model(spec: ModelSpec) -> "TeamModel":
    from runstore.runtime.strands.team import TeamModel

    working = build_model(spec.model, spec.arguments)
    if not spec.scripted:
        return TeamModel(working, working, spec.model_attempts)
    supervising = build_model(SCRIPTED, {**spec.arguments, "calls_all": True})
    return TeamModel(supervising, working, spec.model_attempts)


def _held(definition: Mapping[str, Any]) -> Hierarchy:
    """The hierarchy of a definition, which an earlier release may have stored."""
    try:
        return msgspec.convert(definition["hierarchy"], Hierarchy)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the hierarchy can no longer run: {error}") from error


def _named(name: str, tool: Any) -> None:
    from runstore.runtime.strands.team import named

    named(name, tool)


BUILT_IN: dict[str, ModelSpec] = {SCRIPTED: ModelSpec(model=SCRIPTED, tokens_per_s=20)}


class HierarchySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[hierarchies]`: the models and tools for users' hierarchies."""

    model: str = SCRIPTED  # default: an agent may name its own
    models: dict[str, ModelSpec] = {}
    tools: dict[str, str] = {}  # name → package.module:function
    at_most_once: list[str] = []  # names of tools that no new attempt may call again
    approve: list[str] = []  # names of tools whose calls a person has to approve
    input_timeout_s: float | None = None  # until a question to a person expires; None: never
    record_requests: bool = True  # record what the models are asked

    def __post_init__(self) -> None:
        if self.model not in {*BUILT_IN, *self.models}:
            known = ", ".join(sorted({*BUILT_IN, *self.models}))
            raise ValueError(f"`model`: there is no model {self.model!r}; there are {known}")
        for name, reference in self.tools.items():
            if not TOOL_NAME.fullmatch(name):
                raise ValueError(f"`tools`: {name!r} must be 1 to 64 letters, digits, '_' or '-'")
            if not REFERENCE.fullmatch(reference):
                raise ValueError(f"`tools`: {reference!r} must be of the form 'package.module:function'")
        for setting in ("at_most_once", "approve"):
            for name in getattr(self, setting):
                if name not in self.tools:
                    known = f"there are {', '.join(sorted(self.tools))}" if self.tools else "`tools` is empty"
                    raise ValueError(f"`{setting}`: there is no tool {name!r}; {known}")
        if self.input_timeout_s is not None and not 1 <= self.input_timeout_s <= MAX_INPUT_TIMEOUT_S:
            raise ValueError(f"`input_timeout_s` must be from 1 to {MAX_INPUT_TIMEOUT_S:,}")


class Teams:
    """Checks hierarchies, makes the definition for a run, and builds its agents from that."""

    def __init__(self, settings: HierarchySettings | None = None) -> None:
        settings = settings or HierarchySettings()
        self._default = settings.model
        self._models: Mapping[str, ModelSpec] = {**BUILT_IN, **settings.models}
        self.tools: Mapping[str, str] = settings.tools
        self.at_most_once = frozenset(settings.at_most_once)
        self.approve = frozenset(settings.approve)
        self.record_requests = settings.record_requests
        self._input_timeout_s = settings.input_timeout_s

    def problems(self, hierarchy: Hierarchy) -> Iterator[Problem]:
        """Reasons why it cannot run here."""
        return problems(hierarchy, self._models, self.tools)

    def definition(self, hierarchy: Hierarchy) -> dict[str, Any]:
        """The definition for `lifecycle.queued`.

        The hierarchy and its models and tools of that time, without secrets.
        """
        settled = with_models(hierarchy, self._default)
        specs = {name: self._models[name] for name in sorted(models_of(settled))}
        models = {name: recorded(msgspec.to_builtins(spec)) for name, spec in specs.items()}
        tools = {name: self.tools[name] for name in sorted(tools_of(settled))}
        more = {
            "at_most_once": sorted(self.at_most_once.intersection(tools)),
            "approve": sorted({*self.approve.intersection(tools), *settled.approve}),
            "input_timeout_s": self._input_timeout_s,
        }
        recording = {} if self.record_requests else {"record_requests": False}
        definition = {"hierarchy": msgspec.to_builtins(settled), "models": models, "tools": tools}
        return {**definition, **{name: value for name, value in more.items() if value}, **recording}

    def definition_again(self, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """The definition of a new run of the hierarchy in an earlier run's definition.

        Raises:
            ConfigError: it can no longer run here.
        """
        hierarchy = _held(earlier)
        for problem in self.problems(hierarchy):
            raise ConfigError(f"the hierarchy can no longer run: {problem.field}: {problem.message}")
        return self.definition(hierarchy)

    async def check_tool(self, name: str) -> None:
        """Check that a tool can be imported and used.

        Raises:
            AgentError: it cannot be imported.
            ConfigError: strands cannot use it, or it has another name.
        """
        tool = await load(self.tools[name])
        await in_thread(partial(_named, name, tool), f"tool {name!r}")

    async def build(self, definition: Mapping[str, Any]) -> Any:
        """New strands agents for one attempt of a run: the global supervisor, which holds all others.

        Raises:
            AgentError: a model or tool is no longer allowed, or the code of a tool cannot be imported.
            ConfigError: a model or a tool cannot be built, or the hierarchy is no longer one.
        """
        hierarchy = _held(definition)
        for problem in self.problems(hierarchy):
            raise AgentError(f"the hierarchy can no longer run: {problem.field}: {problem.message}")
        specs = {name: self._models[name] for name in models_of(hierarchy)}
        tools = {name: await load(self.tools[name]) for name in tools_of(hierarchy)}

        def build() -> Any:
            from runstore.runtime.strands.team import build_team

            return build_team(hierarchy, {name: _team_model(spec) for name, spec in specs.items()}, tools)

        # A provider's model may take long to make; the scripted one does not.
        scripted = all(spec.scripted for spec in specs.values())
        return build() if scripted else await in_thread(build, "building the agents of a hierarchy")
