"""Builds models and agents from a configuration. A provider's package is imported only when needed."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runstore.core.errors import ConfigError

if TYPE_CHECKING:
    from strands import Agent
    from strands.models import Model

SCRIPTED = "scripted"
ATTEMPTS = 3  # calls of a throttled model, including the first
FIRST_RETRY_S = 1  # seconds before the second call; doubled for each further one
LAST_RETRY_S = 60


class Provider(Struct, frozen=True):
    """A model provider that strands ships: its class, the package to install, its required arguments."""

    name: str
    cls: str
    install: str
    needs: frozenset[str] = frozenset({"model_id"})


NONE: frozenset[str] = frozenset()
PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("anthropic", "AnthropicModel", "runstore[anthropic]", frozenset({"model_id", "max_tokens"})),
        Provider("bedrock", "BedrockModel", "runstore", NONE),
        Provider("gemini", "GeminiModel", "runstore[gemini]"),
        Provider("litellm", "LiteLLMModel", "runstore[litellm]"),
        Provider("llamaapi", "LlamaAPIModel", "runstore[llamaapi]"),
        Provider("llamacpp", "LlamaCppModel", "runstore", NONE),
        Provider("mistral", "MistralModel", "runstore[mistral]"),
        Provider("ollama", "OllamaModel", "runstore[ollama]"),
        Provider("openai", "OpenAIModel", "runstore[openai]"),
        Provider("openai_responses", "OpenAIResponsesModel", "runstore[openai]"),
        Provider(
            "sagemaker",
            "SageMakerAIModel",
            "runstore[sagemaker]",
            frozenset({"endpoint_config", "payload_config"}),
        ),
        Provider("writer", "WriterModel", "runstore[writer]"),
    )
}
MODEL_NAMES: tuple[str, ...] = (SCRIPTED, *PROVIDERS)
DEFAULTS: dict[str, dict[str, Any]] = {"ollama": {"host": None}}  # defaults that the constructor lacks
# Arguments that no configuration can hold.
OBJECTS = {"boto_client_config", "boto_session", "client", "clock", "sleep"}


def build_model(name: str, args: Mapping[str, Any]) -> "Model":
    """A new model.

    Args:
        name: one of `MODEL_NAMES`.
        args: arguments of the model's constructor, such as `model_id`, `host` or `client_args`.

    Raises:
        ConfigError: an unknown name, a missing package, or wrong arguments.
    """
    cls = _model_class(name)
    known, arguments = _parameters(cls) - OBJECTS, {**DEFAULTS.get(name, {}), **args}
    if missing := sorted(PROVIDERS[name].needs - arguments.keys()) if name in PROVIDERS else ():
        raise ConfigError(f"model {name!r} needs {' and '.join(missing)} in model_args")
    if unknown := sorted(arguments.keys() - known):
        raise ConfigError(
            f"model {name!r} takes no argument {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
        )
    try:
        if "cache_config" in arguments:
            arguments["cache_config"] = _cache_config(arguments["cache_config"])
        return cls(**arguments)
    except Exception as error:  # each provider has its own errors
        raise ConfigError(f"model {name!r} cannot be made: {type(error).__name__}: {error}") from error


def build_agent(
    name: str,
    model: "Model",
    *,
    system_prompt: str | None,
    tools: Sequence[Any],
    description: str | None,
    attempts: int | None = None,
) -> "Agent":
    """A new agent that prints nothing. Plain functions among `tools` become strands tools.

    Args:
        attempts: calls of a throttled model, including the first; None: ATTEMPTS. strands' own default would
            keep a run waiting for two minutes.

    Raises:
        ConfigError: strands cannot use a tool.
    """
    from strands import Agent

    from runstore.runtime.strands.recorders.model_calls import Retries

    return Agent(
        model=model,
        name=name,
        description=description,
        system_prompt=system_prompt,
        tools=[_tool(tool) for tool in tools],
        callback_handler=None,
        retry_strategy=Retries(
            max_attempts=attempts or ATTEMPTS, initial_delay=FIRST_RETRY_S, max_delay=LAST_RETRY_S
        ),
    )


def names_of(tools: Sequence[Any]) -> list[str]:
    """The names of an agent's tools, as its model sees them.

    Raises:
        ConfigError: strands cannot use a tool, or two have the same name.
    """
    names: list[str] = []
    for tool in map(_tool, tools):
        name: str = tool.tool_name
        if name.replace("-", "_") in (taken.replace("-", "_") for taken in names):
            raise ConfigError(f"two tools have the name {name!r}, in which '-' and '_' are the same")
        names.append(name)
    return names


def _model_class(name: str) -> "type[Model]":
    if name == SCRIPTED:
        from runstore.demo.model import ScriptedModel

        return ScriptedModel
    if name not in PROVIDERS:
        raise ConfigError(f"there is no model {name!r}; there are {', '.join(MODEL_NAMES)}")
    provider = PROVIDERS[name]
    try:
        module = importlib.import_module(f"strands.models.{provider.name}")
    except ImportError as error:
        raise ConfigError(
            f"model {name!r} needs a package that is missing ({error}): pip install {provider.install!r}"
        ) from error
    cls: type[Model] = getattr(module, provider.cls)
    return cls


@cache
def _parameters(cls: Any) -> frozenset[str]:
    """The arguments that a model takes. strands only warns of others, so a typo would pass."""
    from typing import get_args

    from typing_extensions import get_type_hints

    names: set[str] = set()
    hints = get_type_hints(cls.__init__, include_extras=True)
    _self, *parameters = inspect.signature(cls.__init__).parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            for config in get_args(hints[parameter.name]):  # Unpack[Config]
                names |= get_type_hints(config).keys()
        else:
            names.add(parameter.name)
    return frozenset(names)


def _cache_config(table: Any) -> Any:
    """strands' CacheConfig from a table, its form in a configuration."""
    from strands.models import CacheConfig

    return CacheConfig(**table) if isinstance(table, Mapping) else table


def _tool(tool: Any) -> Any:
    from strands import tool as as_tool
    from strands.types.tools import AgentTool

    if isinstance(tool, AgentTool):
        return tool
    if inspect.isfunction(tool):
        try:
            return as_tool(tool)
        except Exception as error:  # no schema can be made of its signature
            raise ConfigError(f"{tool.__qualname__} cannot be a tool: {error}") from error
    raise ConfigError(f"a tool must be a function or a strands tool, not {type(tool).__name__}")
