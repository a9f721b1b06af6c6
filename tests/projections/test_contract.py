"""Every projection keeps the contract that is published for users' own, on each kind of database."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from runstore.core.events import Custom
from runstore.core.ports import EventFilter
from runstore.projections import comparison
from runstore.projections.projection import Projection
from runstore.projections.registry import shipped
from runstore.testing import ProjectionContract
from tests.kit.slow import shared_out
from tests.projections.examples import InlineTotals, Totals
from tests.servers.databases import DATABASES, kept_database

ON_EACH = [pytest.param(kind, marks=() if kind == "sqlite" else pytest.mark.slow) for kind in DATABASES]


class OnEachDatabase(ProjectionContract):
    @pytest.fixture(autouse=True)
    def _small_ranges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(comparison, "RANGE_ROWS", 3)

    @pytest.fixture(params=ON_EACH)
    def database_url(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:  # type: ignore[override]
        with kept_database(request.param, tmp_path) as url:
            yield url


@pytest.mark.parametrize(
    ("name", "database_url"),
    shared_out([each.name for each in shipped()], "runs", "usage"),
    indirect=["database_url"],
)
class TestShippedOnes(OnEachDatabase):
    @pytest.fixture(autouse=True)
    def _chosen(self, name: str, database_url: str) -> None:  # both are parameters of every test
        self.name = name

    def make(self) -> Projection:
        return next(projection for projection in shipped() if projection.name == self.name)


class Untold(Totals):
    """It leaves out text, which may be redacted later."""

    reads = EventFilter(prefixes=("lifecycle.", "tool.", "custom."))


class TestOneOfAProgram(OnEachDatabase):
    projection = Untold()
    events = (Custom("custom.note", "hi"),)
    survives_purges: ClassVar[bool] = False  # it counts events of purged runs, too


class TestAnInlineOne(OnEachDatabase):
    projection = InlineTotals()
    survives_purges: ClassVar[bool] = False
