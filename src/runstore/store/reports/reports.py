"""All reports of a database, for servers."""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from runstore.database.database import Database
from runstore.projections.live import reading_live
from runstore.store.reports.runs import RunsQuery, RunsReport, report_runs
from runstore.store.reports.search import Found, SearchQuery, search
from runstore.store.reports.sessions import SessionsReport, list_sessions
from runstore.store.reports.tools import ToolRow, ToolsQuery, report_tools
from runstore.store.reports.usage import UsageQuery, UsageRow, report_usage

P = ParamSpec("P")
T = TypeVar("T")


class Reports:
    """Reads the live tables of the projections.

    The methods raise InvalidQuery, ProjectionNotBuilt, Busy and LogUnavailable.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def runs(self, query: RunsQuery) -> RunsReport:
        return await self._report(report_runs, query)

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        return await self._report(report_usage, query)

    async def tools(self, query: ToolsQuery) -> list[ToolRow]:
        return await self._report(report_tools, query)

    async def sessions(self, user_id: str, after: str | None, limit: int) -> SessionsReport:
        return await self._report(list_sessions, user_id, after, limit)

    async def search(self, query: SearchQuery) -> Found:
        return await self._report(search, query)

    async def _report(
        self, report: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._database.query_list(
            lambda connection: reading_live(connection, lambda: report(connection, *args, **kwargs))
        )
