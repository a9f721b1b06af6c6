"""Held writers: appends queue up behind them, or are committed before them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from sqlalchemy import Connection

from runstore.core.codec import EncodedEvent
from runstore.core.ids import new_run_id
from runstore.core.ports import Committed, EventLog, LiveFeed
from runstore.database.columns import pack_run_id
from runstore.database.dialects import Dialect, Row
from tests.kit.events import start_run
from tests.kit.polling import DEADLINE_S


@asynccontextmanager
async def held_writer(log: EventLog, feed: LiveFeed) -> AsyncIterator[None]:
    """Hold the log's only writer while it publishes a run that has no readers."""
    publish = feed.publish
    held, go_on = threading.Event(), threading.Event()
    let_go: list[bool] = []

    def hold(commits: Sequence[Committed]) -> None:
        publish(commits)
        held.set()
        let_go.append(go_on.wait(DEADLINE_S))  # the writer would swallow a failed assertion

    feed.publish = hold  # type: ignore[method-assign]
    bystander = asyncio.create_task(start_run(log))
    try:
        assert await asyncio.to_thread(held.wait, DEADLINE_S)
        yield
    finally:
        feed.publish = publish  # type: ignore[method-assign]
        go_on.set()
        await bystander
        assert all(let_go), "the writer was held for longer than the test waits"


@contextmanager
def writing(dialect: Dialect, run_id: str | None = None, seq: int = 1) -> Iterator[tuple[Connection, str]]:
    """A server's writer whose event, of a new run or the given one, has its position and is not committed."""
    run_id = run_id or new_run_id()
    rows = [Row(pack_run_id(run_id), seq, EncodedEvent("custom.note", 1, False, 0, b"{}"))]
    with dialect.engine.connect() as connection:
        if connection.dialect.name == "postgresql":  # or the server ends it while a busy machine lets it wait
            connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '1min'")
            connection.exec_driver_sql("SET lock_timeout = '1min'")
        else:
            connection.exec_driver_sql("SET SESSION idle_transaction_timeout = 60")
            connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 60")
        connection.rollback()
        dialect.begin_write(connection)
        dialect.insert_events(connection, b"12345678", rows)
        yield connection, run_id
