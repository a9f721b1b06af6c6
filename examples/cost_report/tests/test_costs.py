"""The projection keeps runstore's contract: `pytest` in this folder."""

from cost_report import Costs

from runstore.testing import ProjectionContract


class TestCosts(ProjectionContract):
    projection = Costs()
