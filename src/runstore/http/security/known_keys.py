"""Caches the API keys for up to a second."""

import time

from msgspec import Struct

from runstore.core.errors import LogUnavailable
from runstore.core.times import now_ms
from runstore.database.database import Database
from runstore.store import keys
from runstore.store.keys import StoredKey

TRUST_S = 1.0  # seconds that a cached answer is valid
MAX_KNOWN_KEYS = 10_000


class _Known(Struct, frozen=True):
    stored: StoredKey | None
    at: float


class KnownKeys:
    """Saves requests and open streams most queries for keys.

    While the database cannot be read, the last answer stays valid: no data can leave the server then. Both
    methods raise LogUnavailable if there is no cached answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, _Known] = {}
        self._exist: bool | None = None
        self._exist_at = 0.0

    async def exist(self) -> bool:
        """Whether any key exists; this never becomes false again."""
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
        """The key; None if it does not exist, is revoked or has expired."""
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
            self._known.pop(key_id, None)  # unknown ids must not fill the memory
            return
        if len(self._known) >= MAX_KNOWN_KEYS:
            self._known.clear()
        self._known[key_id] = known
