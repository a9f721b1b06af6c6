"""Reads the trace of a run from its log."""

from runstore.core.ports import LogReader
from runstore.core.trace import TRACED, Trace, TraceFold
from runstore.database.opening import Database
from runstore.eventlog.queries import read_ends


async def read_trace(database: Database, log: LogReader, run_id: str) -> Trace:
    """The run as a tree, also with its ending if it is longer than a trace.

    Raises:
        RunPurged
    """
    folding, after = TraceFold(run_id), 0
    while folding.complete and (page := await log.read(run_id, after=after, only=TRACED)):
        for event in page:
            folding.add(event)
        after = page[-1].seq
    if not folding.complete:
        for event in await database.query(read_ends, run_id):
            folding.add_ending(event)
    return folding.trace
