"""The rules that need more than one run: what a start claims of its user's, and turns in a session."""

from collections.abc import Sequence

from sqlalchemy import Connection

from runstore.core.codec import EncodedEvent
from runstore.core.ports import Head
from runstore.eventlog.admission import Append
from runstore.eventlog.claims import Claims, read_claims, write_claims
from runstore.eventlog.sessions import Sessions, read_sessions, write_started


class Rules:
    """Judges the appends of one batch, in order."""

    def __init__(self, claims: Claims, sessions: Sessions) -> None:
        self.claims = claims
        self.sessions = sessions

    def take(self, append: Append, events: Sequence[EncodedEvent], head: Head) -> list[Append]:
        """Let an append in that its run admits as `events`; returns what other runs get on account of it.

        Raises:
            AlreadyStarted, IdempotencyConflict, LimitExceeded, SessionBusy: nothing was taken.
        """
        self.claims.check(append)
        caused = self.sessions.take(append, events, head)
        self.claims.take(append)
        return caused


def read_rules(connection: Connection) -> Rules:
    return Rules(read_claims(connection), read_sessions(connection))


def write_rules(connection: Connection, rules: Rules) -> None:
    """Store what was taken. Before the control tables of the runs: those let go what has ended."""
    write_claims(connection, rules.claims)
    write_started(connection, rules.sessions.started)
