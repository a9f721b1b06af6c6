"""For the tests of programs that use runstore: a scripted model, the contract of projections, and replays.

The contract needs pytest.
"""

from typing import TYPE_CHECKING, Any

from runstore.testing.fixtures import FixtureDiffers, replay_fixture

if TYPE_CHECKING:
    from runstore.demo.model import ScriptedModel
    from runstore.testing.projections import ProjectionContract

__all__ = ["FixtureDiffers", "ProjectionContract", "ScriptedModel", "replay_fixture"]


def __getattr__(name: str) -> Any:
    """Import the contract with pytest, and the model with strands, on first use."""
    if name == "ProjectionContract":
        from runstore.testing.projections import ProjectionContract

        return ProjectionContract
    if name == "ScriptedModel":
        from runstore.demo.model import ScriptedModel

        return ScriptedModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
