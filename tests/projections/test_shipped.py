"""The promises of every shipped projection, on every kind of database (G9)."""

from random import Random

import pytest

from runstore.projections.prices import Price, Prices
from runstore.projections.projection import Projection, check_projection
from runstore.projections.sessions import SessionsProjection
from runstore.projections.text import TextProjection
from runstore.projections.tools import ToolsProjection
from runstore.projections.usage import UsageProjection
from tests.projections.conftest import Tables
from tests.projections.history import History, batches

PRICES = Prices({"big": [Price(input=1.25, output=10, cache_read=0.125)]})
PROJECTIONS = [UsageProjection(PRICES), SessionsProjection(), ToolsProjection(), TextProjection()]
each_projection = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda each: each.name)


@each_projection
def test_a_replay_in_batches_of_any_size_comes_out_equal(tables: Tables, projection: Projection) -> None:
    history = History(7).write(60)
    live = tables.read(tables.fill(projection, [history.log]))
    assert any(live.values())
    again = tables.fill(projection, batches(history.log, Random(3)), "b")
    assert tables.read(again) == live


@each_projection
def test_a_replay_after_purges_deletions_and_redactions_comes_out_equal(
    tables: Tables, projection: Projection
) -> None:
    history = History(11).write(80)
    kinds = {event.type for event in history.appended}
    assert {"run.purged", "run.deleted", "llm.discarded"} <= kinds
    assert len(history.log) < len(history.appended)
    live = tables.fill(projection, batches(history.appended, Random(5)))
    assert tables.read(tables.fill(projection, [history.log], "b")) == tables.read(live)


@each_projection
def test_a_shipped_projection_is_declared_as_the_port_asks(projection: Projection) -> None:
    check_projection(projection)
