"""A machine that has too little of something now is an outage, and no fault of an event."""

import errno
import os
from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from runstore.core.errors import LogUnavailable
from runstore.database.dialects import Dialect
from runstore.database.opening import open_database
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from tests.kit.events import note, start_run, texts

SCARCE = {
    "memory": MemoryError(),
    "descriptors": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "space": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


@pytest.mark.parametrize("error", SCARCE.values(), ids=SCARCE)
async def test_a_read_without_resources_is_an_outage(database_url: str, error: Exception) -> None:
    def read(connection: Connection) -> None:
        raise error

    database = open_database(database_url)
    with pytest.raises(LogUnavailable):
        await database.query(read)
    assert await database.query(lambda connection: "read again") == "read again"
    await database.close()


@pytest.mark.parametrize("error", SCARCE.values(), ids=SCARCE)
async def test_an_append_without_resources_is_not_refused_for_good(
    open_shared: Callable[..., SqlEventLog], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    log = open_shared(MemoryFeed())
    run_id = await start_run(log)
    dialect: type[Dialect] = type(log.database.dialect)
    stored = dialect.insert_events
    scarce = True

    def insert_events(*arguments: object) -> None:
        if scarce:
            raise error
        stored(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(dialect, "insert_events", insert_events)
    with pytest.raises(LogUnavailable):
        await log.append(run_id, [note("1")])
    scarce = False
    await log.append(run_id, [note("2")], patient=True)
    assert (await texts(log, run_id))[-1:] == ["2"]
