"""The API keys, as the database had them a second ago at most."""

import time

from msgspec import Struct

from runstore.core.errors import LogUnavailable
from runstore.database.opening import Database
from runstore.store import keys
from runstore.store.keys import StoredKey

TRUST_S = 1.0  # how long what the database said is believed
MAX_KNOWN_KEYS = 10_000


class _Known(Struct, frozen=True):
    stored: StoredKey | None
    at: float


class KnownKeys:
    """Spares requests and open streams most queries.

    While the database cannot be read, what it said last holds: nothing can be got out of it then anyway.
    Both methods raise LogUnavailable when it has not said anything yet.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, _Known] = {}
        self._exist: bool | None = None
        self._exist_at = 0.0

    async def exist(self) -> bool:
        """Whether there is any key; once there is one, there always will be."""
        now = time.monotonic()
        if self._exist is None or (not self._exist and now - self._exist_at >= TRUST_S):
            self._exist_at = now
            try:
                self._exist = bool(await self._database.query(keys.any_keys))
            except LogUnavailable:
                if self._exist is None:
                    raise
        return self._exist

    async def active(self, key_id: str) -> StoredKey | None:
        """The key; None when there is none, or it is revoked or expired."""
        known = self._known.get(key_id)
        if known is None or time.monotonic() - known.at >= TRUST_S:
            try:
                known = _Known(await self._database.query(keys.find_key, key_id), time.monotonic())
            except LogUnavailable:
                if known is None:
                    raise
            else:
                self._remember(key_id, known)
        stored = known.stored
        return stored if stored is not None and stored.key.state(now_ms()) == "active" else None

    def _remember(self, key_id: str, known: _Known) -> None:
        if known.stored is None:
            self._known.pop(key_id, None)  # strangers' guesses take no memory
            return
        if len(self._known) >= MAX_KNOWN_KEYS:
            self._known.clear()
        self._known[key_id] = known


def now_ms() -> int:
    return time.time_ns() // 1_000_000
