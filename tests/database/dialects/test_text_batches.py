"""Batches of text are stored unchanged, and a lost connection costs nothing."""

import logging
from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Connection

from runstore.core.codec import EncodedEvent
from runstore.core.errors import LeaseLost
from runstore.core.ids import new_run_id
from runstore.database.columns import pack_run_id
from runstore.database.dialects import Dialect, Row
from runstore.database.dialects.postgresql_arrays import (
    BYTEA,
    INT2,
    INT8,
    TEXT,
    Packed,
    pack_bytes,
    pack_numbers,
)
from runstore.eventlog.queries import read_run
from runstore.eventlog.sql import SqlEventLog
from tests.kit.events import note, offer, start_run, started, token
from tests.kit.events import read_run as read_all_of
from tests.servers.databases import end_other_connections

OpenLog = Callable[..., SqlEventLog]

BIG = b"x" * (2 << 20)  # more than any socket buffers: the server answers while it is still being sent

servers = pytest.mark.parametrize("database_url", ["postgresql", "mysql"], indirect=True)
postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def rows_of(run_id: str, *data: bytes, first: int = 1) -> list[Row]:
    packed = pack_run_id(run_id)
    return [
        Row(packed, seq, EncodedEvent("custom.nöte", 1, False, 0, value))
        for seq, value in enumerate(data, first)
    ]


def store(dialect: Dialect, connection: Connection, rows: Sequence[Row]) -> None:
    dialect.begin_write(connection)
    dialect.insert_events(connection, b"12345678", rows)


def error_of(dialect: Dialect, connection: Connection, rows: Sequence[Row]) -> Exception | None:
    """The error of any driver."""
    try:
        store(dialect, connection, rows)
    except Exception as error:
        return error
    return None


def stored(connection: Connection, run_id: str) -> list[bytes]:
    return [event.data for event in read_run(connection, run_id, 0, None, 1000, None)]


def test_a_batch_with_the_runs_beginning_is_stored_unchanged(dialect: Dialect) -> None:
    run_id, data = new_run_id(), [b"", b"\0\\'\xff", "ünï 😀".encode(), BIG]
    with dialect.engine.connect() as connection:
        store(dialect, connection, rows_of(run_id, *data))
        connection.commit()
        assert stored(connection, run_id) == data
        (event, *_) = read_run(connection, run_id, 0, None, 1000, None)
        assert (event.seq, event.type, event.version, event.ends, event.at) == (1, "custom.nöte", 1, False, 0)


def test_a_seq_that_is_taken_is_a_conflict_after_which_the_connection_is_of_use(dialect: Dialect) -> None:
    run_id = new_run_id()
    with dialect.engine.connect() as connection:
        store(dialect, connection, rows_of(run_id, b"1"))
        connection.commit()
        error = error_of(dialect, connection, rows_of(run_id, b"again", b"2"))
        assert error is not None
        assert dialect.is_conflict(error)
        connection.rollback()
        store(dialect, connection, rows_of(run_id, b"2", first=2))
        connection.commit()
        assert stored(connection, run_id) == [b"1", b"2"]


@postgresql  # MariaDB ends an idle transaction before the wait for a lock is given up
@pytest.mark.parametrize("data", [b"small", BIG])
def test_the_barrier_keeps_text_out_and_the_driver_does_not_complain(
    dialect: Dialect, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run_id()
    with dialect.engine.connect() as alone, dialect.engine.connect() as connection:
        dialect.begin_write(alone, exclusive=True)
        with caplog.at_level(logging.WARNING):
            error = error_of(dialect, connection, rows_of(run_id, data))
        assert error is not None
        assert dialect.is_conflict(error)
        connection.rollback()
        alone.rollback()
        store(dialect, connection, rows_of(run_id, data))
        connection.commit()
        assert stored(connection, run_id) == [data]
    assert caplog.records == []


@servers
async def test_text_is_stored_though_the_server_has_ended_every_idle_connection(
    open_shared: OpenLog, dialect: Dialect
) -> None:
    log = open_shared()
    run_id = await start_run(log)
    end_other_connections(dialect)
    assert await log.append(run_id, [note()], attempt=1) == 3
    assert [event.seq for event in await read_all_of(log, run_id)] == [1, 2, 3]


async def test_text_of_a_run_that_another_process_has_taken_over_is_refused(open_shared: OpenLog) -> None:
    zombie, other = open_shared(), open_shared()
    run_id = await start_run(zombie)
    assert offer(zombie, run_id, token("before"))
    await zombie.append(run_id, [note()], attempt=1)
    await other.append(run_id, [started(2, "worker-2", "adopted")])
    with pytest.raises(LeaseLost):
        await zombie.append(run_id, [note("after")], attempt=1)
    assert [event.type for event in await read_all_of(other, run_id)][2:] == [
        "llm.token", "custom.note", "lifecycle.started",
    ]  # fmt: skip


async def test_an_expected_seq_that_another_process_has_made_right_is_let_in(open_shared: OpenLog) -> None:
    log, other = open_shared(), open_shared()
    run_id = await start_run(log)
    assert await other.append(run_id, [note()]) == 3
    assert await log.append(run_id, [note()], expected_seq=3) == 4  # its own head was 2


@postgresql
def test_arrays_are_read_as_they_were_packed(dialect: Dialect) -> None:
    numbers = [0, 1, -1, (1 << 15) - 1, -(1 << 15)]
    large = [*numbers, (1 << 63) - 1, -(1 << 63)]
    texts = ["", "NULL", "ünï 😀", "{a,b}"]
    packed = [
        pack_numbers(INT2, numbers), pack_numbers(INT8, large),
        pack_bytes(TEXT, [text.encode() for text in texts]), pack_bytes(BYTEA, [b"", b"\0\xff"]),
        Packed(b"alone"),
    ]  # fmt: skip
    with dialect.engine.connect() as connection, connection.connection.cursor() as cursor:
        cursor.execute("SELECT %b::int2[], %b::int8[], %b::text[], %b::bytea[], %b::bytea", packed)
        assert cursor.fetchone() == (numbers, large, texts, [b"", b"\0\xff"], b"alone")
