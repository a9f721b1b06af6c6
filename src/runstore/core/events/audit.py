"""`audit.*`: reads of other users' runs, erasures and commands to projections. In streams of their own."""

from typing import ClassVar, Literal

from runstore.core.events.event import Event, EventType

AuditedRead = Literal["record", "events", "stream", "ticket", "list", "audit", "export", "report", "search"]


class AuditRead(Event, frozen=True):
    """An admin or an auditor read another user's run, or asked for those of all users.

    It stands in a stream of its own, beside the run's: reading changes no run. `what`: how it was
    read. `run_id`: of one run; `query`: the filters of a search.
    """

    type: ClassVar[EventType] = "audit.read"
    by: str
    what: AuditedRead
    key_id: str | None = None
    run_id: str | None = None
    query: dict[str, str] = {}


class AuditErased(Event, frozen=True):
    """Runs of a user were erased: purged, with the user's other traces. It stands in a stream of reads.

    `user_id`: the user, or the pseudonym that replaced the name. `run_id`: of one run; None: all of them.
    `runs`, `events`: how many there were to erase.
    """

    type: ClassVar[EventType] = "audit.erased"
    by: str
    reason: str
    user_id: str
    runs: int
    events: int
    key_id: str | None = None
    run_id: str | None = None
    pseudonym: bool = False


ProjectionCommand = Literal["pause", "resume", "skip", "drop"]


class AuditProjection(Event, frozen=True):
    """A projection was paused, resumed or dropped, or skips an event. It stands in the stream of searches.

    `run_id`, `seq`: the skipped event.
    """

    type: ClassVar[EventType] = "audit.projection"
    by: str
    command: ProjectionCommand
    projection: str
    run_id: str | None = None
    seq: int | None = None
