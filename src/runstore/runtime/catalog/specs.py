"""An agent's settings as the configuration gives them, and the source of the agent that they describe."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from runstore.core.codec import TOO_DEEP, to_json
from runstore.core.depth import is_deeper
from runstore.core.limits import MAX_INPUT_TIMEOUT_S, MAX_RUN_TIMEOUT_S
from runstore.runtime.catalog.output_schema import check_schema
from runstore.runtime.code.process import CodeLimits
from runstore.runtime.loops.agent_loops import Isolation
from runstore.runtime.strands.models import MODEL_NAMES, SCRIPTED
from runstore.runtime.user_code import REFERENCE

RUN_CODE = "run-code"  # the only agent that runs submitted code
ONLY_RUN_CODE = f"the agent {RUN_CODE!r}, and only this one, has `code = true`"
AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # a slash separates the names in an agent's path
MAX_MEMORY_MB = 1 << 20
RANGES: dict[str, tuple[float, float]] = {  # the smallest and the largest value of a setting
    "tokens": (1, 10_000_000),
    "tokens_per_s": (0, 1_000_000),
    "run_timeout_s": (0.001, MAX_RUN_TIMEOUT_S),
    "idle_timeout_s": (0.1, MAX_RUN_TIMEOUT_S),
    "input_timeout_s": (1, MAX_INPUT_TIMEOUT_S),
    "memory_limit_mb": (100, MAX_MEMORY_MB),  # an idle process takes half of the smallest
    "model_attempts": (1, 10),  # ten attempts take 4 minutes
    "cpu_limit_s": (1, MAX_RUN_TIMEOUT_S),
    "file_limit_mb": (1, MAX_MEMORY_MB),
    "open_files_limit": (16, 65_536),
    "process_limit": (1, 4_096),
    "output_limit_mb": (1, 1_024),
}


class ModelSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model with its settings: those of an `[agents.name]` or a `[hierarchies.models.name]` table."""

    model: str
    model_args: dict[str, Any] = {}
    tokens: int | None = None
    tokens_per_s: float | None = None
    model_attempts: int | None = None

    def __post_init__(self) -> None:
        if self.model not in MODEL_NAMES:
            raise ValueError(f"`model`: there is no model {self.model!r}; there are {', '.join(MODEL_NAMES)}")
        if not self.scripted and (self.tokens is not None or self.tokens_per_s is not None):
            raise ValueError(ONLY_SCRIPTED)
        if self.scripted and self.model_args:
            raise ValueError("the scripted model takes no `model_args`, only `tokens` and `tokens_per_s`")
        _check_ranges(self)
        _check_depth("model_args", self.model_args)

    @property
    def scripted(self) -> bool:
        return self.model == SCRIPTED

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the model's constructor."""
        return self.model_args if not self.scripted else {
            "tokens": self.tokens, "tokens_per_s": self.tokens_per_s or 0,
        }  # fmt: skip


class ConfiguredModel(ModelSpec, frozen=True, kw_only=True):
    """An agent that the catalog builds of a model, a prompt and tools."""

    system_prompt: str | None = None
    tools: list[str] = []
    at_most_once: list[str] = []


class Factory(Struct, frozen=True):
    """An agent that a function builds for each attempt."""

    reference: str


class SubmittedCode(Struct, frozen=True):
    """An agent that runs the Python it receives as its input."""

    limits: CodeLimits


Source = ConfiguredModel | Factory | SubmittedCode


class AgentSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One `[agents.name]` table. Its `model`, `factory` or `code` is the tag that decides on its `source`.

    Raises:
        ValueError: a value is out of bounds, or a setting would have no effect on an agent of this source.
    """

    model: str | None = None
    model_args: dict[str, Any] = {}
    system_prompt: str | None = None
    tools: list[str] = []  # package.module:function
    at_most_once: list[str] = []  # names of tools that no new attempt may call again
    approve: list[str] = []  # names of tools whose calls a person has to approve
    input_timeout_s: float | None = None  # until a question to a person expires; None: never
    factory: str | None = None  # package.module:function
    code: bool = False  # runs submitted Python
    tokens: int | None = None  # scripted model: exact number of llm.token events
    tokens_per_s: float | None = None  # scripted model; 0 or None: unlimited
    description: str | None = None
    run_timeout_s: float | None = None
    idle_timeout_s: float | None = None  # longest silence of the agent
    isolation: Isolation = "loop"
    memory_limit_mb: int | None = None  # MiB of memory for the agent's process
    model_attempts: int | None = None  # calls of a throttled model in all; None: 3
    record_requests: bool = True  # record what the models are asked
    on_worker_lost: Literal["resume", "restart", "fail"] | None = None  # None: "resume", for code "fail"
    memory: Literal["session"] | None = None  # begin with the messages of the session's earlier runs
    output_schema: dict[str, Any] | None = None  # JSON Schema of the results
    cpu_limit_s: int | None = None  # code: seconds of CPU; None, here and below: the default of CodeLimits
    file_limit_mb: int | None = None  # code: MiB of one file
    open_files_limit: int | None = None  # code
    process_limit: int | None = None  # code: processes and threads
    output_limit_mb: int | None = None  # code: MiB of output

    def __post_init__(self) -> None:
        source = self.source
        _refuse_ignored(self, source)
        if isinstance(source, Factory):
            _check_reference("factory", source.reference)
        for tool in self.tools:
            _check_reference("tools", tool)
        _check_ranges(self)
        if self.output_schema is not None:
            _check_depth("output_schema", self.output_schema)
            check_schema(self.output_schema)

    @property
    def source(self) -> Source:
        """Where the agent comes from, with the settings of this source alone."""
        match self.model, self.factory, self.code:
            case str(), None, False:
                return ConfiguredModel(**self._given(ConfiguredModel))
            case None, str() as reference, False:
                return Factory(reference)
            case None, None, True:
                return SubmittedCode(CodeLimits(**self._given(CodeLimits)))
        raise ValueError("an agent needs a `model` or a `factory`, or `code = true`, and not both")

    def _given(self, cls: type[Struct]) -> dict[str, Any]:
        """The settings that are fields of `cls`, without those that are not given."""
        values = {name: getattr(self, name) for name in cls.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def runs_in(self) -> Isolation:
        """Where its attempts run."""
        return "process" if self.code else self.isolation

    def references(self) -> Iterator[tuple[str, str]]:
        """Each setting that names code, and the `package.module:function` it names."""
        if self.factory is not None:
            yield "factory", self.factory
        for tool in self.tools:
            yield "tools", tool


ONLY_SCRIPTED = f"`tokens` and `tokens_per_s` are for model = {SCRIPTED!r} only"
OF_PROCESSES = ("memory_limit_mb",)
OF_CODE = tuple(name for name in CodeLimits.__struct_fields__ if name not in OF_PROCESSES)
OF_THE_SCRIPTED_MODEL = ("tokens", "tokens_per_s")
OF_MODELS = tuple(
    name for name in ConfiguredModel.__struct_fields__ if name not in ("model", *OF_THE_SCRIPTED_MODEL)
)
OF_TOOLS = ("at_most_once",)
NOT_FOR_CODE = ("memory", "approve", "input_timeout_s")
ALONE = "code always runs in a process of its own, and always starts again from the beginning"
NOT_OF_CODE = (  # values that code cannot have, and why
    ("record_requests", False, "submitted code asks no model that runstore could record"),
    ("isolation", "thread", ALONE),
    ("on_worker_lost", "resume", ALONE),
)


def _refuse_ignored(spec: AgentSpec, source: Source) -> None:
    """Refuse each setting that has no effect on an agent of this source: its author expects one."""
    if spec.runs_in != "process":
        _refuse(spec, OF_PROCESSES, "`{}` is for isolation = 'process' only")
    if not isinstance(source, SubmittedCode):
        _refuse(spec, OF_CODE, "`{}` is for code = true only")
    if not isinstance(source, ConfiguredModel):
        _refuse(spec, OF_THE_SCRIPTED_MODEL, ONLY_SCRIPTED)
        _refuse(spec, OF_MODELS, "`{}` is for agents with a `model`; a factory sets it itself")
    if not spec.tools:
        _refuse(spec, OF_TOOLS, "`{}` names some of the agent's `tools`, but the agent has no tools")
    if isinstance(source, SubmittedCode):
        _refuse(spec, NOT_FOR_CODE, "`{}`: code has no messages to begin with, and asks no person")
        for name, value, reason in NOT_OF_CODE:
            if getattr(spec, name) == value:
                raise ValueError(f"`{name}`: {reason}")


def _refuse(spec: AgentSpec, settings: tuple[str, ...], message: str) -> None:
    for name in settings:
        if getattr(spec, name) not in (None, "", [], {}):
            raise ValueError(message.format(name))


def _check_ranges(spec: AgentSpec | ModelSpec) -> None:
    for name in spec.__struct_fields__:
        least, most = RANGES.get(name, (0, 0))
        value = getattr(spec, name)
        if name in RANGES and value is not None and not least <= value <= most:
            raise ValueError(f"`{name}` must be from {least:g} to {most:,}")


def _check_reference(name: str, reference: str) -> None:
    if not REFERENCE.fullmatch(reference):
        raise ValueError(f"`{name}`: {reference!r} must be of the form 'package.module:function'")


def _check_depth(name: str, value: dict[str, Any]) -> None:
    if is_deeper(to_json(value)):
        raise ValueError(TOO_DEEP.format(f"`{name}`"))
