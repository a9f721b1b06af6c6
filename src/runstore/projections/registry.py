"""The projections of a process: those of runstore, of installed packages, and of the program."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from runstore.core.errors import ConfigError
from runstore.projections.prices import Prices
from runstore.projections.projection import Projection, check_projection
from runstore.projections.runs import RunList
from runstore.projections.sessions import SessionsProjection
from runstore.projections.text import TextProjection
from runstore.projections.tools import ToolsProjection
from runstore.projections.usage import UsageProjection

GROUP = "runstore.projections"  # the group of entry points: name = "package.module:Class"
MAX_PROJECTIONS = 100  # projections of a process


def shipped(prices: Prices | None = None) -> list[Projection]:
    """The projections of runstore itself."""
    return [
        RunList(), UsageProjection(prices), SessionsProjection(), ToolsProjection(), TextProjection(),
    ]  # fmt: skip


def find_projections(given: Sequence[Projection] = (), prices: Prices | None = None) -> list[Projection]:
    """All projections.

    Args:
        given: by the program, besides those of installed packages.
        prices: of models, for the cost of runs.

    Raises:
        ConfigError: one cannot be loaded, is declared wrongly, or shares a name or a table with another one.
    """
    found = [*shipped(prices), *map(_load, sorted(entry_points(group=GROUP))), *given]
    if len(found) > MAX_PROJECTIONS:
        raise ConfigError(f"there may be {MAX_PROJECTIONS} projections, not {len(found)}")
    owners: dict[str, Projection] = {}
    for projection in found:
        if not isinstance(projection, Projection):
            raise ConfigError(
                f"a projection must be an instance of runstore.Projection, not {projection!r:.200}"
            )
        check_projection(projection)
        for name in {projection.name, *(table.name for table in projection.tables)}:
            if name in owners:
                kinds = " and ".join(_kind(each) for each in (owners[name], projection))
                raise ConfigError(f"projection {projection.name!r}: {kinds} both use the name {name!r}")
            owners[name] = projection
    return found


def _load(entry: EntryPoint) -> Projection:
    place = f"entry point {entry.name!r} ({entry.value}) of {entry.dist.name if entry.dist else 'a package'}"
    try:
        loaded = entry.load()
        projection = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:  # the package's code may raise anything
        raise ConfigError(f"{place}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(projection, Projection):
        raise ConfigError(f"{place}: must be a runstore.Projection, not {projection!r:.200}")
    return projection


def _kind(projection: Projection) -> str:
    return f"{type(projection).__module__}.{type(projection).__qualname__}"
