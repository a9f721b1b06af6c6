"""What a start takes of its user's: a place among the active runs, and an idempotency key.

Judged and written in the append's own transaction, while nobody else writes: of two starts that race, in one
process or in two, the second sees what the first took. A check before the append would let both through.
"""

from collections.abc import Callable
from functools import partial

from msgspec import Struct
from sqlalchemy import Connection, delete, func, insert, select

from runstore.core.errors import AlreadyStarted, IdempotencyConflict, LimitExceeded
from runstore.database.tables import idempotency, open_runs
from runstore.eventlog.admission import Append

KEPT_MS = 24 * 3_600_000  # how long an idempotency key is remembered


class UsedKey(Struct, frozen=True):
    """What an idempotency key was used for, and when: UTC, milliseconds since 1970."""

    run_id: str
    body_hash: bytes
    at: int


class Claims:
    """Judges the claims of one batch; what is taken counts for those that come after."""

    def __init__(
        self, count_active: Callable[[str], int], find_key: Callable[[str, str], UsedKey | None]
    ) -> None:
        self._count_active = count_active
        self._find_key = find_key
        self._active: dict[str, int] = {}
        self.keys: dict[tuple[str, str], UsedKey] = {}  # taken by this batch

    def check(self, append: Append) -> None:
        """Whether an append may have what it claims.

        Raises:
            AlreadyStarted, IdempotencyConflict: the key was used before.
            LimitExceeded: the user has as many active runs as allowed.
        """
        claim = append.claim
        if claim is None:
            return
        if claim.key is not None:
            place = (claim.user_id, claim.key)
            used = self.keys.get(place) or self._find_key(*place)
            if used is not None and used.at > append.events[0].at - KEPT_MS:
                if used.body_hash != claim.body_hash:
                    raise IdempotencyConflict(f"the idempotency key {claim.key!r} was used with another body")
                raise AlreadyStarted(used.run_id)
        active = self._active_of(claim.user_id)
        if claim.max_active is not None and active >= claim.max_active:
            message = f"user {claim.user_id} has {active:,} active runs, as many as allowed"
            raise LimitExceeded("runs_per_user", message)

    def take(self, append: Append) -> None:
        """Take what an append claims, if it claims anything; it has been checked."""
        if (claim := append.claim) is None:
            return
        self._active[claim.user_id] = self._active_of(claim.user_id) + 1
        if claim.key is not None:
            place = (claim.user_id, claim.key)
            self.keys[place] = UsedKey(append.run_id, claim.body_hash, append.events[0].at)

    def _active_of(self, user_id: str) -> int:
        if user_id not in self._active:
            self._active[user_id] = self._count_active(user_id)
        return self._active[user_id]


def read_claims(connection: Connection) -> Claims:
    """Claims that are judged by the control tables."""
    return Claims(partial(_count_active, connection), partial(_find_key, connection))


def write_claims(connection: Connection, claims: Claims) -> None:
    """Remember the keys that were taken, and forget those that are too old."""
    if not claims.keys:
        return
    newest = max(used.at for used in claims.keys.values())
    connection.execute(delete(idempotency).where(idempotency.c.at <= newest - KEPT_MS))
    rows = [
        {"user_id": user_id, "key": key, "run_id": used.run_id, "body_hash": used.body_hash, "at": used.at}
        for (user_id, key), used in sorted(claims.keys.items())
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
