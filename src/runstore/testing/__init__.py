"""For the tests of programs that use runstore: the contract of projections, and replays of runs.

The contract needs pytest.
"""

from typing import TYPE_CHECKING, Any

from runstore.testing.fixtures import FixtureDiffers, replay_fixture

if TYPE_CHECKING:
    from runstore.testing.projections import ProjectionContract

__all__ = ["FixtureDiffers", "ProjectionContract", "replay_fixture"]


def __getattr__(name: str) -> Any:
    """Import the contract, and pytest with it, when it is first asked for."""
    if name == "ProjectionContract":
        from runstore.testing.projections import ProjectionContract

        return ProjectionContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
