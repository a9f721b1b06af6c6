"""Reservations of a start: one of its user's active runs, and an idempotency key.

They are checked and written in the append's own transaction, under the user's lock. So of two racing starts,
in one process or in two, the second sees the first one's reservation. A check before the append would admit
both.
"""

from collections.abc import Callable
from functools import partial

from msgspec import Struct
from sqlalchemy import Connection, delete, func, insert, select

from runstore.core.errors import AlreadyStarted, IdempotencyConflict, LimitExceeded
from runstore.database.tables import idempotency, open_runs
from runstore.eventlog.admission import Append

KEPT_MS = 24 * 3_600_000  # milliseconds that an idempotency key is remembered


class UsedKey(Struct, frozen=True):
    """The run that an idempotency key started. `at`: UTC, milliseconds since 1970."""

    run_id: str
    body_hash: bytes
    at: int


class Reservations:
    """Checks the reservations of one batch against the stored ones, and against each other."""

    def __init__(
        self, count_active: Callable[[str], int], find_key: Callable[[str, str], UsedKey | None]
    ) -> None:
        self._count_active = count_active
        self._find_key = find_key
        self._active: dict[str, int] = {}
        self.keys: dict[tuple[str, str], UsedKey] = {}  # reserved by this batch

    def check(self, append: Append) -> None:
        """Check the append's reservation.

        Raises:
            AlreadyStarted, IdempotencyConflict: the key was used before.
            LimitExceeded: the user has as many active runs as allowed.
        """
        reservation = append.reservation
        if reservation is None:
            return
        if reservation.key is not None:
            user_key = (reservation.user_id, reservation.key)
            used = self.keys.get(user_key) or self._find_key(*user_key)
            if used is not None and used.at > append.events[0].at - KEPT_MS:
                if used.body_hash != reservation.body_hash:
                    raise IdempotencyConflict(
                        f"the idempotency key {reservation.key!r} was used with another body"
                    )
                raise AlreadyStarted(used.run_id)
        active = self._active_of(reservation.user_id)
        if reservation.max_active is not None and active >= reservation.max_active:
            message = f"user {reservation.user_id} has {active:,} active runs, as many as allowed"
            raise LimitExceeded("runs_per_user", message)

    def take(self, append: Append) -> None:
        """Make the append's reservation, after `check` has accepted it."""
        if (reservation := append.reservation) is None:
            return
        self._active[reservation.user_id] = self._active_of(reservation.user_id) + 1
        if reservation.key is not None:
            user_key = (reservation.user_id, reservation.key)
            self.keys[user_key] = UsedKey(append.run_id, reservation.body_hash, append.events[0].at)

    def _active_of(self, user_id: str) -> int:
        if user_id not in self._active:
            self._active[user_id] = self._count_active(user_id)
        return self._active[user_id]


def read_reservations(connection: Connection) -> Reservations:
    """Reservations, checked against the control tables."""
    return Reservations(partial(_count_active, connection), partial(_find_key, connection))


def write_reservations(connection: Connection, reservations: Reservations) -> None:
    """Store the keys that the batch reserved, and delete expired ones."""
    if not reservations.keys:
        return
    newest = max(used.at for used in reservations.keys.values())
    connection.execute(delete(idempotency).where(idempotency.c.at <= newest - KEPT_MS))
    rows = [
        {"user_id": user_id, "key": key, "run_id": used.run_id, "body_hash": used.body_hash, "at": used.at}
        for (user_id, key), used in sorted(reservations.keys.items())
    ]
    connection.execute(insert(idempotency), rows)


def _count_active(connection: Connection, user_id: str) -> int:
    query = select(func.count()).select_from(open_runs).where(open_runs.c.user_id == user_id)
    return connection.execute(query).scalar_one()


def _find_key(connection: Connection, user_id: str, key: str) -> UsedKey | None:
    columns = idempotency.c
    query = select(columns.run_id, columns.body_hash, columns.at)
    row = connection.execute(query.where(columns.user_id == user_id, columns.key == key)).first()
    return None if row is None else UsedKey(*row)
