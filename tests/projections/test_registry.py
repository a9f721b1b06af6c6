"""Which projections a process has: shipped ones, those of installed packages, those of the program."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table

from runstore.core.errors import ConfigError
from runstore.projections.projection import Projection
from runstore.projections.registry import find_projections
from tests.projections.examples import Picky, Totals
from tests.projections.installed import install


def table(name: str, *columns: Any) -> Table:
    return Table(name, MetaData(), *(columns or [Column("id", Integer, primary_key=True)]))


def made(**parts: Any) -> Projection:
    kind = type("Made", (Projection,), {"name": "made", "tables": (table("made"),), **parts})
    projection: Projection = kind()
    return projection


def test_projections_of_packages_and_of_the_program_join_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, totals="tests.projections.examples:Totals")
    monkeypatch.syspath_prepend(tmp_path)
    names = [projection.name for projection in find_projections([Picky()])]
    assert names[0] == "runs"
    assert names[-2:] == ["totals", "picky"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nowhere:Totals", ["ModuleNotFoundError", "nowhere"]),
        ("tests.projections.examples:totals", ["must be a runstore.Projection"]),
        ("tests.projections.examples:Nothing", ["AttributeError", "Nothing"]),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, words: list[str]
) -> None:
    install(tmp_path, broken=reference)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as refused:
        find_projections()
    for word in ("'broken'", "their-projections", *words):
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("projection", "words"),
    [
        (made(name="Made"), ["`name` must match", "'Made'"]),
        (made(name="x" * 41), ["`name` must match"]),
        (made(version=0), ["`version` must be a whole number from 1"]),
        (made(version=True), ["`version` must be a whole number from 1"]),
        (made(tables=()), ["1 to 16 `tables`"]),
        (made(tables=(table("other"),)), ["'other' must be called 'made', or 'made_'"]),
        (made(tables=(table("made", Column("id", Integer)),)), ["needs a primary key"]),
        (
            made(tables=(table("made", Column("id", ForeignKey("runs.run_id"), primary_key=True)),)),
            ["must not have foreign keys"],
        ),
        (made(name="runs", tables=(table("runs"),)), ["'runs'", "RunList and tests", "both use the name"]),
    ],
)
def test_a_projection_that_is_declared_wrongly_is_refused(projection: Projection, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        find_projections([projection])
    for word in words:
        assert word in str(refused.value)


def test_two_projections_must_not_share_a_table() -> None:
    other = made(name="totals_daily", tables=(table("totals_daily"),))
    assert find_projections([Totals(), other])
    tables = (*Totals.tables, table("totals_daily"))
    with pytest.raises(ConfigError, match="both use the name 'totals_daily'"):
        find_projections([made(name="totals", tables=tables), other])


def test_an_invalid_projection_is_refused() -> None:
    thing: Any = Totals
    with pytest.raises(ConfigError, match=r"must be an instance of runstore\.Projection"):
        find_projections([thing])
