"""Reads the trace of a run from its log."""

from runstore.core.folds.trace import TRACED, Trace, TraceFold
from runstore.core.pages import pages
from runstore.core.ports import LogReader
from runstore.database.database import Database
from runstore.eventlog.queries import read_ends


async def read_trace(database: Database, log: LogReader, run_id: str) -> Trace:
    """The run as a tree, also with its ending if it is longer than a trace.

    Raises:
        RunPurged
    """
    folding = TraceFold(run_id)
    async for page in pages(log, run_id, only=TRACED):
        for event in page:
            folding.add(event)
        if not folding.complete:
            for event in await database.query(read_ends, run_id):
                folding.add_ending(event)
            break
    return folding.trace
