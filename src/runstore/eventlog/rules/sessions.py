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


class QueuePlace(Struct, frozen=True):
    """A run's place in its session's queue. `position`: None until it is stored, which means last."""

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
        find_place: the place of an open run; None if it takes no turns.
        find_active: the run that has the turn in a session.
        find_before: the newest of a session's open runs before a place, up to a number.
    """

    def __init__(
        self,
        find_place: Callable[[str], QueuePlace | None],
        find_active: Callable[[Session], str | None],
        find_before: Callable[[QueuePlace, int], Sequence[str]],
    ) -> None:
        self._find_place = find_place
        self._find_active = find_active
        self._find_before = find_before
        self._queued: dict[str, QueuePlace | None] = {}  # queued by this batch, in order
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
        place = QueuePlace(session, run_id) if session is not None else None
        superseded: list[Append] = []
        if place is not None and queued.multitask_strategy == "reject":
            if before := self._before(place, 1):
                raise SessionBusy(place.session[1], before[0])
        elif place is not None and queued.multitask_strategy == "interrupt":
            cancel = encode(
                CancelRequested(
                    by=queued.user_id, reason=SUPERSEDED, superseded_by=run_id, key_id=queued.key_id
                ),
                at=event.at,
            )
            superseded = [Append(other, [cancel]) for other in self._before(place, MAX_SUPERSEDED)]
        self._queued[run_id] = place
        return superseded

    def _start(self, run_id: str, head: Head) -> None:
        place = self._queued[run_id] if run_id in self._queued else self._find_place(run_id)
        if place is None:
            return
        active = self.started.get(place.session) or self._find_active(place.session)
        if active in self._ended or active == run_id:
            active = None
        # A run that had the turn before need not queue again.
        before = [] if head.attempt else self._before(place, 1)
        if first := before[0] if before else active:
            raise SessionBusy(place.session[1], first)
        self.started[place.session] = run_id

    def _before(self, place: QueuePlace, most: int) -> list[str]:
        """The open runs before a place, newest first."""
        queued: list[str] = []
        if place.position is None:  # no run of this batch precedes a stored one
            others = takewhile(lambda other: other != place, self._queued.values())
            queued = [other.run_id for other in others if other and other.session == place.session]
        stored = self._find_before(place, most + len(self._ended))
        return [other for other in (*reversed(queued), *stored) if other not in self._ended][:most]


_open = open_runs.c
_position = first_position(_open.run_id)
_PLACE = select(_open.user_id, _open.session_id, _position).where(_open.run_id == bindparam("run"))
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
        partial(_find_place, connection), partial(_find_active, connection), partial(_find_before, connection)
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


def _find_place(connection: Connection, run_id: str) -> QueuePlace | None:
    row = connection.execute(_PLACE, {"run": run_id}).first()
    return None if row is None or row[1] is None else QueuePlace((row[0], row[1]), run_id, row[2])


def _find_active(connection: Connection, session: Session) -> str | None:
    """The run that has the turn, if it is open: a release without turns leaves its row behind."""
    return connection.execute(_ACTIVE, {"user": session[0], "session": session[1]}).scalar()


def _find_before(connection: Connection, place: QueuePlace, most: int) -> Sequence[str]:
    line = {"user": place.session[0], "session": place.session[1], "most": most}
    if place.position is None:
        return connection.execute(_LINE, line).scalars().all()
    return connection.execute(_BEFORE, {**line, "position": place.position}).scalars().all()
