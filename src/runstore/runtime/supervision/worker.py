"""The parts of a process that its supervision works with."""

from msgspec import Struct

from runstore.core.ports import RunLog
from runstore.runtime.leases.leases import Leases
from runstore.runtime.loops import AgentLoops
from runstore.runtime.supervision.run_table import RunTable
from runstore.runtime.supervision.run_tasks import RunTasks


class Worker(Struct, frozen=True):
    """One process's runs, and where they run.

    Args:
        leases: this worker's own, and what is known of the others'.
        loops: where its agents run.
        tasks: work for its runs beside the agents.
    """

    log: RunLog
    leases: Leases
    loops: AgentLoops
    runs: RunTable
    tasks: RunTasks
