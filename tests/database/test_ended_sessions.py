"""A server may end a session in a transaction: it restarts, or the machine has stalled for a second."""

import pytest
from sqlalchemy import Connection, func, insert, select

from runstore.core.errors import LogUnavailable
from runstore.database.database import CHANGE_TRIES, Database
from runstore.database.opening import open_database, write_to
from runstore.database.tables import workers
from tests.servers.databases import end_other_connections

WORKER = {"worker_id": "w", "host": "h", "pid": 1, "capacity": 1, "started_at": 0, "beat": 0, "beat_at": 0}
CHANGES = {"beside writers": Database.change, "exclusively": Database.change_exclusively}
ON_SERVERS = pytest.mark.parametrize("database_url", ["postgresql", "mysql"], indirect=True)


@pytest.fixture
def database(database_url: str) -> Database:
    return open_database(database_url)


class AddedWorker:
    """A change, in which the server ends the session some times."""

    def __init__(self, database: Database, ended: int) -> None:
        self._database = database
        self._ended = ended
        self.tries = 0

    def __call__(self, connection: Connection) -> None:
        self.tries += 1
        connection.execute(insert(workers), WORKER)
        if self.tries <= self._ended:
            end_other_connections(self._database.dialect)
        self.count(connection)

    def count(self, connection: Connection) -> int:
        return connection.execute(select(func.count()).select_from(workers)).scalar_one()


@ON_SERVERS
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_whose_session_is_ended_before_the_commit_is_made_once(
    database: Database, change: str
) -> None:
    added = AddedWorker(database, ended=1)
    await CHANGES[change](database, added)
    assert (added.tries, await database.query(added.count)) == (2, 1)
    await database.close()


@ON_SERVERS
async def test_a_command_whose_session_is_ended_before_the_commit_writes_once(
    database: Database, database_url: str
) -> None:
    added = AddedWorker(database, ended=1)
    write_to(database_url, added)
    assert (added.tries, await database.query(added.count)) == (2, 1)
    await database.close()


@ON_SERVERS
async def test_a_server_that_ends_each_session_is_unavailable(database: Database) -> None:
    added = AddedWorker(database, ended=CHANGE_TRIES)
    with pytest.raises(LogUnavailable):
        await database.change(added)
    assert (added.tries, await database.query(added.count)) == (CHANGE_TRIES, 0)
    await database.close()
