"""The rules that involve several runs: reservations of a start, and turns in a session."""

from collections.abc import Sequence

from sqlalchemy import Connection, select

from runstore.core.codec import EncodedEvent
from runstore.core.events import Queued, Started
from runstore.core.ports import Head
from runstore.core.queued import read_queued
from runstore.database.tables import open_runs
from runstore.eventlog.admission import Append
from runstore.eventlog.rules.reservations import Reservations, read_reservations, write_reservations
from runstore.eventlog.rules.sessions import Sessions, read_sessions, write_started


class Rules:
    """Judges the appends of one batch, in order."""

    def __init__(self, reservations: Reservations, sessions: Sessions) -> None:
        self.reservations = reservations
        self.sessions = sessions

    def take(self, append: Append, events: Sequence[EncodedEvent], head: Head) -> list[Append]:
        """Accept an append whose run accepts `events`; return the appends to other runs that follow from it.

        Raises:
            AlreadyStarted, IdempotencyConflict, LimitExceeded, SessionBusy: the append was not accepted.
        """
        self.reservations.check(append)
        caused = self.sessions.take(append, events, head)
        self.reservations.take(append)
        return caused


def users_of(connection: Connection, batch: Sequence[Append]) -> set[str]:
    """The users whose runs this batch is judged by; their locks keep other writers out."""
    events = [(append.run_id, event) for append in batch for event in append.events]
    users = {read_queued(event).user_id for _, event in events if event.type == Queued.type}
    if starting := [run_id for run_id, event in events if event.type == Started.type]:
        runs = open_runs.c
        waiting = select(runs.user_id).where(runs.run_id.in_(starting), runs.session_id.is_not(None))
        users |= set(connection.execute(waiting).scalars())
    return users


def read_rules(connection: Connection) -> Rules:
    return Rules(read_reservations(connection), read_sessions(connection))


def write_rules(connection: Connection, rules: Rules) -> None:
    """Store the accepted reservations and turns, before the control tables drop the runs that ended."""
    write_reservations(connection, rules.reservations)
    write_started(connection, rules.sessions.started)
