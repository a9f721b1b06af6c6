"""API keys: random bytes, shown once, stored as a hash.

A key is `rsk_ID_SECRET`. The id is public: lists and logs show it. The secret has 256 random bits, so one
round of SHA-256 protects it: only secrets that can be guessed, such as passwords, need a slow hash.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, insert, select, update

from runstore.core.errors import RunstoreError
from runstore.core.names import check_name
from runstore.database.tables import api_keys, server_secrets

PREFIX = "rsk_"
ID_BYTES = 6
SECRET_BYTES = 32
TICKETS = "tickets"  # the secret that signs tickets
PSEUDONYMS = "pseudonyms"  # the secret that makes the pseudonyms of erased users

Role = Literal["user", "auditor", "admin"]


class KeyNotFound(RunstoreError):
    """There is no such key."""

    code = "key_not_found"


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key without its secret. Times: UTC, milliseconds since 1970."""

    key_id: str
    user_id: str
    role: Role
    name: str = ""
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None

    def state(self, now: int) -> Literal["active", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class StoredKey(Struct, frozen=True):
    """A key with the hash of its secret."""

    key: ApiKey
    secret_hash: bytes

    def opens(self, presented: str) -> bool:
        """Whether `presented` is this key, compared in constant time."""
        return hmac.compare_digest(_hash(presented), self.secret_hash)


_FIELDS = [api_keys.c[name] for name in ApiKey.__struct_fields__]


def create_key(
    connection: Connection, user_id: str, *, role: Role, name: str, now: int, expires_at: int | None
) -> str:
    """Store a new key and return it; it cannot be read again.

    Raises:
        InvalidName: the user's name or the key's is empty, too long, or not storable.
    """
    check_name(user_id, "user")
    check_name(name or None, "name")
    key_id = secrets.token_hex(ID_BYTES)
    presented = f"{PREFIX}{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    key = ApiKey(
        key_id=key_id, user_id=user_id, role=role, name=name, created_at=now, expires_at=expires_at
    )  # fmt: skip
    values = msgspec.structs.asdict(key)
    connection.execute(insert(api_keys).values(secret_hash=_hash(presented), **values))
    return presented


def revoke_key(connection: Connection, key_id: str, now: int) -> ApiKey:
    """Revoke a key. A second revocation changes nothing; the row stays in either case.

    Raises:
        KeyNotFound
    """
    found = find_key(connection, key_id)
    if found is None:
        raise KeyNotFound(f"there is no key {key_id!r}; `runstore keys list` shows the existing keys")
    this = api_keys.c.key_id == key_id
    connection.execute(update(api_keys).where(this, api_keys.c.revoked_at.is_(None)).values(revoked_at=now))
    return found.key


def list_keys(connection: Connection) -> list[ApiKey]:
    """Every key that was ever made, oldest first."""
    rows = connection.execute(select(*_FIELDS).order_by(api_keys.c.created_at, api_keys.c.key_id))
    return [_key(row) for row in rows]


def find_key(connection: Connection, key_id: str) -> StoredKey | None:
    query = select(*_FIELDS, api_keys.c.secret_hash).where(api_keys.c.key_id == key_id)
    row = connection.execute(query).first()
    return None if row is None else StoredKey(_key(row[:-1]), row[-1])


def any_keys(connection: Connection) -> bool:
    """Whether a key was ever made: revoking the last key must not open the server to everyone."""
    return connection.execute(select(api_keys.c.key_id).limit(1)).first() is not None


def key_id_of(presented: str) -> str | None:
    """The public part of a key; None if it is malformed."""
    key_id, _, secret = presented.removeprefix(PREFIX).partition("_")
    return key_id if presented.startswith(PREFIX) and key_id and secret else None


def ticket_secret(connection: Connection) -> bytes:
    """The secret that signs tickets. Call it in a transaction that excludes other writers."""
    return _secret(connection, TICKETS)


def pseudonym_secret(connection: Connection) -> bytes:
    """The secret that makes pseudonyms. Call it in a transaction that excludes other writers."""
    return _secret(connection, PSEUDONYMS)


def erase_keys(connection: Connection, user_id: str, pseudonym: str | None, now: int) -> int:
    """Empty the labels of a user's keys; return their number.

    With a pseudonym it replaces the user, and the keys are revoked: they would bring the name back.
    """
    this = api_keys.c.user_id == user_id
    if pseudonym is not None:
        unrevoked = (this, api_keys.c.revoked_at.is_(None))
        connection.execute(update(api_keys).where(*unrevoked).values(revoked_at=now))
    values = {"name": ""} if pseudonym is None else {"name": "", "user_id": pseudonym}
    return connection.execute(update(api_keys).where(this).values(values)).rowcount


def _secret(connection: Connection, name: str) -> bytes:
    """A secret of this database: made at its first use, the same for every process."""
    this = select(server_secrets.c.value).where(server_secrets.c.name == name)
    found: bytes | None = connection.execute(this).scalar()
    if found is None:
        found = secrets.token_bytes(SECRET_BYTES)
        connection.execute(insert(server_secrets).values(name=name, value=found))
    return found


def _key(row: Sequence[Any]) -> ApiKey:
    return ApiKey(**dict(zip(ApiKey.__struct_fields__, row, strict=True)))


def _hash(presented: str) -> bytes:
    return hashlib.sha256(presented.encode(errors="surrogatepass")).digest()
