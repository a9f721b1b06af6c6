"""API keys for tests, and clients that have them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from runstore.database.opening import write_to
from runstore.store import keys
from tests.kit.server import ServerProcess, new_client


def make_key(folder: Path, user: str, role: keys.Role = "user", *, expires_in_s: float | None = None) -> str:
    """A key in the database of a server in `folder`."""
    now = time.time_ns() // 1_000_000
    expires_at = None if expires_in_s is None else now + int(expires_in_s * 1_000)
    made = partial(keys.create_key, user_id=user, role=role, name="", now=now, expires_at=expires_at)
    return write_to(url_of(folder), made, create=True)


def revoke_key(folder: Path, key: str) -> None:
    key_id, now = keys.key_id_of(key) or "", time.time_ns() // 1_000_000
    write_to(url_of(folder), partial(keys.revoke_key, key_id=key_id, now=now), create=True)


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'runstore.db'}"


@contextmanager
def client(server: ServerProcess, key: str | None) -> Iterator[httpx.Client]:
    """A client that sends `key` with every request."""
    with new_client(str(server.http.base_url)) as http:
        if key is not None:
            http.headers["Authorization"] = f"Bearer {key}"
        yield http
