"""Rebuilds of the run list, as `runstore projections` does them beside a running server."""

from msgspec.structs import replace

from runstore.database.database import Database
from runstore.database.dialects import Dialect
from runstore.maintenance.rebuild import Progress, ProjectionReport, rebuild, verify
from runstore.projections.comparison import TableDifference
from tests.kit.database import run_list


def no_progress(reached: int, goal: int) -> None:
    pass


def rebuild_runs(dialect: Dialect, progress: Progress = no_progress) -> TableDifference:
    """How the run list differed, without the keys."""
    return _counts(rebuild(Database(dialect), run_list(), progress))


def verify_runs(dialect: Dialect, progress: Progress = no_progress) -> TableDifference:
    """How the run list differs, without the keys."""
    return _counts(verify(Database(dialect), run_list(), progress))


def _counts(report: ProjectionReport) -> TableDifference:
    assert report.tables is not None
    return replace(report.tables["runs"], keys=())
