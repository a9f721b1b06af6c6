"""Turns in a session: of a user's runs with one session id, one at a time is started.

They are checked and written in the append's own transaction, as reservations are. The turn belongs to the run
that has waited longest. A run queued to interrupt asks all runs before it to stop, and still waits until they
have ended. `parallel` runs take no turns.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile

from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select

from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import SessionBusy
from runstore.core.events import SUPERSEDED, CancelRequested, Queued, Started
from runstore.core.ports import Head
from runstore.core.queued import QueuedRun, read_queued
from runstore.database.tables import open_runs, sessions
from runstore.eventlog.admission import Append
from runstore.eventlog.queries import first_position

MAX_SUPERSEDED = 1_000  # runs that one interrupts, the newest: as many as a user may have by default

Session = tuple[str, str]  # user, session id


class Turn(Struct, frozen=True):
    """A run's turn in its session. `position`: of its first event; None until that is stored."""

    session: Session
    run_id: str
    position: int | None = None


def session_of(queued: QueuedRun) -> Session | None:
    """The session whose turns the run takes; None: it takes none."""
    if queued.session_id is None or queued.multitask_strategy == "parallel":
        return None
    return queued.user_id, queued.session_id


class Sessions:
    """Judges one batch; accepted appends count for the later ones.

    Args:
        find_turn: the turn of an open run; None if it takes none.
        find_active: the run that has the turn in a session.
        find_before: the newest of a session's open runs before a turn, up to a number.
    """

    def __init__(
        self,
        find_turn: Callable[[str], Turn | None],
        find_active: Callable[[Session], str | None],
        find_before: Callable[[Turn, int], Sequence[str]],
    ) -> None:
        self._find_turn = find_turn
        self._find_active = find_active
        self._find_before = find_before
        self._queued: dict[str, Turn | None] = {}  # queued by this batch, in order
        self._ended: set[str] = set()
        # Started by this batch: the run that now has the turn of a session.
        self.started: dict[Session, str] = {}

    def take(self, append: Append, events: Sequence[EncodedEvent], head: Head) -> list[Append]:
        """Queue, start or end a run; return the cancel requests for the runs that it supersedes.

        Raises:
            SessionBusy: it is not the run's turn, or the run does not wait for one.
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
                self._ended.add(append.run_id)  # a new run that is refused does not exist
            raise
        return superseded

    def _queue(self, run_id: str, event: EncodedEvent) -> list[Append]:
        queued = read_queued(event)
        session = session_of(queued)
        turn = Turn(session, run_id) if session is not None else None
        superseded: list[Append] = []
        if turn is not None and queued.multitask_strategy == "reject":
            if before := self._before(turn, 1):
                raise SessionBusy(turn.session[1], before[0])
        elif turn is not None and queued.multitask_strategy == "interrupt":
            cancel = encode(
                CancelRequested(
                    by=queued.user_id, reason=SUPERSEDED, superseded_by=run_id, key_id=queued.key_id
                ),
                at=event.at,
            )
            superseded = [Append(other, [cancel]) for other in self._before(turn, MAX_SUPERSEDED)]
        self._queued[run_id] = turn
        return superseded

    def _start(self, run_id: str, head: Head) -> None:
        turn = self._queued[run_id] if run_id in self._queued else self._find_turn(run_id)
        if turn is None:
            return
        active = self.started.get(turn.session) or self._find_active(turn.session)
        if active in self._ended or active == run_id:
            active = None
        # A run that had the turn before need not queue again.
        before = [] if head.attempt else self._before(turn, 1)
        if first := before[0] if before else active:
            raise SessionBusy(turn.session[1], first)
        self.started[turn.session] = run_id

    def _before(self, turn: Turn, most: int) -> list[str]:
        """The open runs before a turn, newest first."""
        queued: list[str] = []
        if turn.position is None:  # no run of this batch precedes a stored one
            others = takewhile(lambda other: other != turn, self._queued.values())
            queued = [other.run_id for other in others if other and other.session == turn.session]
        stored = self._find_before(turn, most + len(self._ended))
        return [other for other in (*reversed(queued), *stored) if other not in self._ended][:most]


_open = open_runs.c
_position = first_position(_open.run_id)
_TURN = select(_open.user_id, _open.session_id, _position.label("position")).where(
    _open.run_id == bindparam("run")
)
_ACTIVE = (
    select(sessions.c.run_id)
    .join(open_runs, _open.run_id == sessions.c.run_id)
    .where(sessions.c.user_id == bindparam("user"), sessions.c.session_id == bindparam("session"))
)
_LINE = (
    select(_open.run_id)
    .where(_open.user_id == bindparam("user"), _open.session_id == bindparam("session"))
    .order_by(_position.desc())
    .limit(bindparam("most"))
)
_BEFORE = _LINE.where(_position < bindparam("position"))
_FREE = delete(sessions).where(
    sessions.c.user_id == bindparam("user"), sessions.c.session_id == bindparam("session")
)
_TAKE = insert(sessions)


def read_sessions(connection: Connection) -> Sessions:
    """Turns, checked against the control tables."""
    return Sessions(
        partial(_find_turn, connection), partial(_find_active, connection), partial(_find_before, connection)
    )


def write_started(connection: Connection, started: Mapping[Session, str]) -> None:
    """Give turns to runs; the table's key refuses a second one."""
    if not started:
        return
    rows = sorted(started.items())
    connection.execute(_FREE, [{"user": user, "session": session} for (user, session), _ in rows])
    connection.execute(
        _TAKE,
        [{"user_id": user, "session_id": session, "run_id": run_id} for (user, session), run_id in rows],
    )


def _find_turn(connection: Connection, run_id: str) -> Turn | None:
    row = connection.execute(_TURN, {"run": run_id}).first()
    if row is None or row.session_id is None:
        return None
    return Turn((row.user_id, row.session_id), run_id, row.position)


def _find_active(connection: Connection, session: Session) -> str | None:
    """The run that has the turn, if it is open: a release without turns leaves its row behind."""
    return connection.execute(_ACTIVE, {"user": session[0], "session": session[1]}).scalar()


def _find_before(connection: Connection, turn: Turn, most: int) -> Sequence[str]:
    line = {"user": turn.session[0], "session": turn.session[1], "most": most}
    if turn.position is None:
        return connection.execute(_LINE, line).scalars().all()
    return connection.execute(_BEFORE, {**line, "position": turn.position}).scalars().all()
