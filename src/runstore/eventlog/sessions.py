"""Turns in a session: of a user's runs with one session id, one at a time is started.

Judged and written in the append's own transaction, as claims are. The turn is the longest waiting run's; one
that is queued to interrupt asks all before it to stop, and still waits until they have ended. `parallel` runs
stand outside: they wait for nobody, and nobody for them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, and_, bindparam, delete, insert, select

from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import SessionBusy
from runstore.core.events import SUPERSEDED, CancelRequested, MultitaskStrategy, Queued, Started
from runstore.core.ports import Head
from runstore.eventlog.admission import Append
from runstore.eventlog.schema import open_runs, sessions

Session = tuple[str, str]  # user, session id


class Turn(Struct, frozen=True):
    """An open run of a session; `active`: it has been started."""

    run_id: str
    active: bool


class Wish(Struct, frozen=True):
    """What a queued run says of its session."""

    user_id: str
    session_id: str | None = None
    multitask_strategy: MultitaskStrategy = "enqueue"

    @property
    def session(self) -> Session | None:
        """The session whose turns the run takes."""
        waits = self.session_id is not None and self.multitask_strategy != "parallel"
        return (self.user_id, self.session_id or "") if waits else None


class Sessions:
    """Judges one batch; what is let in counts for those that come after.

    Args:
        find_session: whose turns an open run takes.
        find_turns: a session's open runs, oldest first.
    """

    def __init__(
        self,
        find_session: Callable[[str], Session | None],
        find_turns: Callable[[Session], Sequence[Turn]],
    ) -> None:
        self._find_session = find_session
        self._find_turns = find_turns
        self._queued: dict[str, Session | None] = {}  # by this batch
        self._ended: set[str] = set()
        self._turns: dict[Session, dict[str, bool]] = {}
        self.started: dict[Session, str] = {}  # by this batch: which run has the session now

    def take(self, append: Append, events: Sequence[EncodedEvent], head: Head) -> list[Append]:
        """Let a run queue, start or end; returns the cancel requests for those that it supersedes.

        Raises:
            SessionBusy: it is not the run's turn, or it would not wait for it.
        """
        superseded: list[Append] = []
        try:
            for event in events:
                if event.type == Queued.type:
                    superseded = self._queue(append.run_id, event)
                elif event.type == Started.type:
                    self._start(append.run_id, head)
                elif event.ends:
                    self._ended.add(append.run_id)
        except SessionBusy:
            if not head.seq:
                self._ended.add(append.run_id)  # it does not come to be
            raise
        return superseded

    def _queue(self, run_id: str, event: EncodedEvent) -> list[Append]:
        wish = read_wish(event)
        session = self._queued[run_id] = wish.session
        if session is None:
            return []
        before = list(self._open(session))
        if before and wish.multitask_strategy == "reject":
            raise SessionBusy(session[1], before[-1])
        self._turns[session][run_id] = False
        if wish.multitask_strategy != "interrupt":
            return []
        cancel = CancelRequested(by=wish.user_id, reason=SUPERSEDED, superseded_by=run_id)
        return [Append(other, [encode(cancel, at=event.at)]) for other in before]

    def _start(self, run_id: str, head: Head) -> None:
        session = self._queued[run_id] if run_id in self._queued else self._find_session(run_id)
        if session is None:
            return
        turns = self._open(session)
        runs = list(turns)
        active = next((other for other in runs if turns[other] and other != run_id), None)
        waiting = [] if head.attempt else runs[: runs.index(run_id)]  # who had it before need not queue again
        if active is not None or waiting:
            raise SessionBusy(session[1], waiting[-1] if waiting else active or "")
        turns[run_id] = True
        self.started[session] = run_id

    def _open(self, session: Session) -> dict[str, bool]:
        if session not in self._turns:
            self._turns[session] = {turn.run_id: turn.active for turn in self._find_turns(session)}
        turns = self._turns[session]
        for run_id in self._ended.intersection(turns):
            del turns[run_id]
        return turns


def read_wish(event: EncodedEvent) -> Wish:
    return msgspec.json.decode(event.data, type=Wish)


_SESSION = select(open_runs.c.user_id, open_runs.c.session_id).where(open_runs.c.run_id == bindparam("run"))
_TURNS = (
    select(open_runs.c.run_id, sessions.c.run_id.is_not(None))
    .select_from(
        open_runs.outerjoin(
            sessions,
            and_(
                sessions.c.user_id == open_runs.c.user_id,
                sessions.c.session_id == open_runs.c.session_id,
                sessions.c.run_id == open_runs.c.run_id,
            ),
        )
    )
    .where(open_runs.c.user_id == bindparam("user"), open_runs.c.session_id == bindparam("session"))
    .order_by(open_runs.c.queued_at, open_runs.c.run_id)
)
_FREE = delete(sessions).where(
    sessions.c.user_id == bindparam("user"), sessions.c.session_id == bindparam("session")
)
_TAKE = insert(sessions)


def read_sessions(connection: Connection) -> Sessions:
    """Sessions that are judged by the control tables."""
    return Sessions(partial(_find_session, connection), partial(_find_turns, connection))


def write_started(connection: Connection, started: Mapping[Session, str]) -> None:
    """Give sessions to runs; the key of the table refuses a second one."""
    if not started:
        return
    rows = sorted(started.items())
    connection.execute(_FREE, [{"user": user, "session": session} for (user, session), _ in rows])
    connection.execute(
        _TAKE,
        [{"user_id": user, "session_id": session, "run_id": run_id} for (user, session), run_id in rows],
    )


def _find_session(connection: Connection, run_id: str) -> Session | None:
    row = connection.execute(_SESSION, {"run": run_id}).first()
    return None if row is None or row[1] is None else (row[0], row[1])


def _find_turns(connection: Connection, session: Session) -> list[Turn]:
    rows = connection.execute(_TURNS, {"user": session[0], "session": session[1]})
    return [Turn(run_id, bool(active)) for run_id, active in rows]
