"""The whole configuration of a process."""

import sys
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runstore.core.errors import ConfigError
from runstore.core.limits import Limits
from runstore.projections.prices import Prices
from runstore.projections.projection import Projection
from runstore.projections.registry import find_projections
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.specs import RUN_CODE, AgentSpec
from runstore.runtime.catalog.teams import HierarchySettings, Teams
from runstore.settings.server import ServerSettings, override


class Settings(Struct, frozen=True):
    """The whole configuration. `folder` holds the agents' modules."""

    server: ServerSettings = ServerSettings()
    agents: dict[str, AgentSpec] = {}
    limits: Limits = Limits()
    hierarchies: HierarchySettings = HierarchySettings()
    projections: tuple[Projection, ...] = ()  # the program's own, besides those of installed packages
    prices: Prices = Prices()
    file: Path | None = None  # the configuration file
    secrets: tuple[str, ...] = ()  # settings of the file that hold a password or a key
    folder: Path | None = None
    # Locations in the file: of `code`, of settings of [server], of references to code.
    locations: dict[str, str] = {}

    @property
    def runs_code(self) -> bool:
        """Whether clients may submit code."""
        return RUN_CODE in self.agents

    def located(self, error: ConfigError) -> ConfigError:
        """The error with the location of its setting, if that is in the file."""
        location = self.locations.get(error.setting or "")
        if location is None or error.setting is None:
            return error
        return ConfigError(f"{location}: `{error.setting.rpartition('.')[2]}`: {error}")

    def look_up_code(self) -> None:
        """Check that the referenced modules exist, without importing them.

        Raises:
            ConfigError: the missing module, and its line.
        """
        try:
            AgentCatalog(self.agents, teams=Teams(self.hierarchies)).look_up(self.folder)
        except ConfigError as error:
            raise self.located(error) from error

    def find_projections(self) -> list[Projection]:
        """Those of runstore, of installed packages, and of the program.

        Raises:
            ConfigError: one is wrong.
        """
        return find_projections(self.projections, self.prices)

    def overridden(self, changes: dict[str, Any]) -> "Settings":
        """The settings with changes from the command line or the environment to `[server]`; None: not given.

        Raises:
            ConfigError: a value is out of bounds.
        """
        locations = {name: location for name, location in self.locations.items() if changes.get(name) is None}
        return replace(self, server=override(self.server, changes), locations=locations)


def use_folder(folder: Path | None) -> None:
    """Make the modules beside the configuration importable."""
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
