"""Keys in the database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from runstore.store import keys
from tests.kit.database import open_database

DAY = 86_400_000


@pytest.fixture
def connection(database: Path) -> Iterator[Connection]:
    dialect = open_database(database)
    with dialect.engine.connect() as connection:
        dialect.begin_write(connection)
        yield connection
    dialect.engine.dispose()


def create(connection: Connection, expires_at: int | None = None) -> str:
    return keys.create_key(connection, "alice", role="user", name="", now=DAY, expires_at=expires_at)


def find(connection: Connection, key: str) -> keys.StoredKey:
    found = keys.find_key(connection, keys.key_id_of(key) or "")
    assert found is not None
    return found


def test_a_key_opens_itself_and_no_other_does(connection: Connection) -> None:
    key, other = create(connection), create(connection)
    stored = find(connection, key)
    assert stored.opens(key)
    for wrong in (other, key[:-1], key + "x", key.upper(), "", "\ud800"):
        assert not stored.opens(wrong)


def test_no_two_keys_are_alike_and_each_has_256_random_bits(connection: Connection) -> None:
    made = [create(connection) for _ in range(50)]
    assert len({key.split("_", 2)[2] for key in made}) == 50
    assert all(len(key.split("_", 2)[2]) >= 43 for key in made)


def test_a_key_ends_when_it_expires_or_is_revoked(connection: Connection) -> None:
    key = create(connection, expires_at=2 * DAY)
    assert find(connection, key).key.state(2 * DAY - 1) == "active"
    assert find(connection, key).key.state(2 * DAY) == "expired"
    keys.revoke_key(connection, keys.key_id_of(key) or "", DAY)
    assert find(connection, key).key.state(DAY) == "revoked"


def test_a_revoked_key_still_counts_as_a_key(connection: Connection) -> None:
    assert not keys.any_keys(connection)
    keys.revoke_key(connection, keys.key_id_of(create(connection)) or "", DAY)
    assert keys.any_keys(connection)


def test_the_secret_of_tickets_is_made_once(connection: Connection) -> None:
    assert keys.ticket_secret(connection) == keys.ticket_secret(connection)


@pytest.mark.parametrize("text", ["", "rsk_", "rsk__", "rsk_a", "rsk_a_", "rsk__b", "sk_a_b", "Rsk_a_b"])
def test_text_without_the_form_of_a_key_has_no_id(text: str) -> None:
    assert keys.key_id_of(text) is None


def test_a_secret_may_hold_what_divides_the_parts() -> None:
    assert keys.key_id_of("rsk_a_b_c") == "a"
