"""Clients never get a database's statement, its values or its address in an error."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from runstore.core.errors import InvalidEvent, LogUnavailable
from runstore.core.events import Queued
from runstore.core.ids import new_run_id
from runstore.database.tables import events
from runstore.eventlog import sql_store
from runstore.eventlog.sql import SqlEventLog
from tests.kit.events import note, start_run, texts, token

SECRET = "what-only-its-user-may-see"


class Refusing:
    """A projection that the database refuses."""

    name = "refusing"

    def apply(self, connection: Any, changes: Any) -> None:
        from sqlalchemy import text

        connection.execute(text("INSERT INTO nowhere VALUES (:value)"), {"value": SECRET})


async def test_a_refusal_of_the_database_is_reported_without_the_statement(
    open_log: Callable[..., SqlEventLog], caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(projections=[Refusing()])
    with pytest.raises((InvalidEvent, LogUnavailable)) as refused:
        await log.append(new_run_id(), [Queued(agent="demo", user_id="local", input=SECRET)], expected_seq=0)
    assert "INSERT" not in str(refused.value)
    assert SECRET not in str(refused.value)
    assert SECRET not in caplog.text


async def test_the_numbers_of_batches_begin_again(
    open_log: Callable[..., SqlEventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_store, "BATCHES", 2)
    log = open_log()
    run_id = await start_run(log)
    for number in range(5):
        await log.append(run_id, [note(f"{number}")])
    assert await texts(log, run_id) == ["0", "1", "2", "3", "4"]


async def test_no_two_batches_have_one_number(
    open_log: Callable[..., SqlEventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_store, "BATCHES", 3)
    log = open_log()
    run_id = await start_run(log)
    for _ in range(29):
        await log.append(run_id, [token()])
    query = select(events.c.append_id)
    numbers = await log.database.query(lambda connection: connection.execute(query).scalars().all())
    assert len(set(numbers)) == 30
    assert {len(number) for number in numbers} == {8}
