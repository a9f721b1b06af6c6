"""The configuration of a program that uses runstore as a library."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from runstore.core.errors import ConfigError
from runstore.projections.projection import Projection
from runstore.runtime.catalog.specs import AgentSpec
from runstore.settings.file import load_settings
from runstore.settings.server import override
from runstore.settings.settings import Settings

Agents = Mapping[str, AgentSpec | str | Callable[..., Any]]


def program_settings(
    url: str,
    config: Path | str | None,
    agents: Agents | None,
    shared_files: bool | None = None,
    projections: Sequence[Projection] = (),
) -> Settings:
    """The configuration file, if one is given, with the arguments of `runstore.open`.

    Raises:
        ConfigError: the configuration is wrong.
    """
    settings = load_settings(Path(config)) if config is not None else Settings()
    specs = {name: _spec(name, agent) for name, agent in (agents or {}).items()}
    settings = replace(
        settings,
        server=override(settings.server, {"database_url": url, "shared_files": shared_files}),
        agents={**settings.agents, **specs},
        projections=tuple(projections),
    )
    settings.look_up_code()
    return settings


def _spec(name: str, agent: AgentSpec | str | Callable[..., Any]) -> AgentSpec:
    """The agent's spec. A function must have a name, as the log keeps it and other processes import it."""
    if isinstance(agent, AgentSpec):
        return agent
    if not isinstance(agent, str):
        if "<" in agent.__qualname__:
            raise ConfigError(f"agent {name!r} must be a function of a module, not {agent.__qualname__}")
        agent = f"{agent.__module__}:{agent.__qualname__}"
    try:
        return AgentSpec(factory=agent)
    except ValueError as error:
        raise ConfigError(f"agent {name!r}: {error}") from error
