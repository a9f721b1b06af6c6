"""MariaDB and MySQL, through PyMySQL."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pymysql
from pymysql.constants import CLIENT, ER
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL

from runstore.core.errors import LogUnavailable
from runstore.database.dialects.base import (
    ANSWER_S,
    COLUMNS,
    CONNECT_S,
    CONNECTIONS,
    IDLE_S,
    MIGRATION_S,
    SLOW_IDLE_S,
    Row,
    check_version,
    user_slots,
    wrong_url,
)
from runstore.database.dialects.servers import HighWaterMark, ServerDialect, ServerErrors, cause_of
from runstore.database.tables import barrier, user_locks

LEAST_MARIADB, LEAST_MYSQL = (10, 6), (8, 0)
ROW_LOCK_S = 2  # seconds for other writers' commits; innodb_lock_wait_timeout counts in seconds
ADVANCE_LOCK_S = 1  # seconds for the barrier, to advance the mark; MariaDB can abort the statement sooner
ADVANCE_S = 0.2  # seconds to advance the mark, while it holds the barrier
STATEMENT_TIMEOUT = 1969  # MariaDB's error number
INSERT_ROWS = 1_000  # rows of one INSERT
INSERT_BYTES = 2 << 20  # bytes of data of one INSERT; hex doubles them
LEAST_PACKET = 8 << 20  # bytes that a server must accept at once; MariaDB's default is 16 MiB, MySQL's 64 MiB
WAIT_S = 30  # seconds before MySQL, which has no timeout for idle transactions, ends a silent session
CHARSET = "utf8mb4"
MIGRATION = "runstore_migration"

# One round trip, so that a client that is suspended just now does not hold the barrier.
_ADVANCE = """
    BEGIN;
    SELECT id FROM barrier WHERE id = 1 FOR UPDATE;
    UPDATE barrier SET closed_upto = GREATEST(closed_upto, (SELECT COALESCE(MAX(position), 0) FROM events));
    COMMIT
"""

_SIZE = """
    SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables
    WHERE table_schema = DATABASE()
"""

CONFLICTS = frozenset({ER.DUP_ENTRY, ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT})
# Errors of the data or the statement; all others may pass, and fail no run. The driver has no names for
# those of custom checks and triggers, collations, and rows and numbers that are too large.
FAULTS = (pymysql.DataError, pymysql.IntegrityError, pymysql.ProgrammingError, pymysql.NotSupportedError)
MORE_FAULTS = frozenset(
    {
        ER.BAD_FIELD_ERROR, ER.NET_PACKET_TOO_LARGE, ER.TRUNCATED_WRONG_VALUE, ER.NO_DEFAULT_FOR_FIELD,
        1118, 1267, 1305, 1416, 1422, 1436, 1644, 1690, 3140, 3819, 3988, 4025,
    }
)  # fmt: skip
NO_FAULTS = frozenset({ER.NO_SUCH_TABLE})


class MysqlDialect(ServerDialect):
    """A server with concurrent writers; the barrier and the users' locks are rows."""

    name: Literal["sqlite", "postgresql", "mysql"] = "mysql"

    def __init__(self, url: URL, *, statement_timeout: bool = True) -> None:
        super().__init__(url)
        self.engine = self._make_engine(
            ROW_LOCK_S, ANSWER_S if statement_timeout else 0, pool_size=CONNECTIONS
        )
        # A separate engine, the only one that accepts several statements at once: their text never contains
        # a value.
        self._advancing = self._make_engine(
            ADVANCE_LOCK_S, ADVANCE_S, flags=CLIENT.MULTI_STATEMENTS, pool_size=1, pool_pre_ping=True
        )
        errors = ServerErrors(url, conflicts=_is_conflict, passes=_may_pass)
        self.is_conflict, self.unavailable = errors.is_conflict, errors.unavailable
        self.high_water_mark = HighWaterMark(self.engine, self._advance_mark, _is_in_the_way).upto

    def close(self) -> None:
        self.engine.dispose()
        self._advancing.dispose()

    def check(self, connection: Connection) -> None:
        mariadb = connection.dialect.is_mariadb  # type: ignore[attr-defined]
        name, least = ("MariaDB", LEAST_MARIADB) if mariadb else ("MySQL", LEAST_MYSQL)
        check_version(self.url, name, connection.dialect.server_version_info, least)
        self._check_charset(connection)
        packet = connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one()
        if packet < LEAST_PACKET:
            raise wrong_url(
                self.url, f"max_allowed_packet is {packet:,} bytes; runstore needs {LEAST_PACKET:,} or more"
            )

    def _check_charset(self, connection: Connection) -> None:
        charsets = "SELECT @@character_set_database, @@character_set_client"
        of_database, of_connection = connection.exec_driver_sql(charsets).one()
        if of_database != CHARSET:
            remedy = f"ALTER DATABASE {self.url.database} CHARACTER SET {CHARSET}"
            raise wrong_url(
                self.url, f"the database's character set is {of_database}, not {CHARSET}: {remedy}"
            )
        if of_connection != CHARSET:
            raise wrong_url(self.url, f"the connection's charset is {of_connection}; leave out `charset=`")

    def begin_write(self, connection: Connection, *, exclusive: bool = False) -> int:
        how = "FOR UPDATE" if exclusive else "LOCK IN SHARE MODE"
        found: int = connection.exec_driver_sql(f"SELECT purges FROM barrier WHERE id = 1 {how}").scalar_one()
        return found

    def lock_users(self, connection: Connection, find: Callable[[], Collection[str]]) -> None:
        if slots := user_slots(find()):
            slot = user_locks.c.slot
            connection.execute(select(slot).where(slot.in_(slots)).order_by(slot).with_for_update())

    def size(self, connection: Connection) -> int:
        """See `Dialect.size`. Rows and indexes; the server renews its figures from time to time."""
        return int(connection.exec_driver_sql(_SIZE).scalar_one())

    def touch(self, connection: Connection) -> None:
        for step in (1, -1):  # the server skips an update without a change, and would not test the disk
            connection.execute(barrier.update().values(high_water_mark=barrier.c.high_water_mark + step))

    def insert_events(self, connection: Connection, append_id: bytes, rows: Sequence[Row]) -> None:
        cursor: Any = connection.connection.cursor()
        for part in _parts(rows):
            cursor.execute(f"INSERT INTO events ({COLUMNS}) VALUES {_values(append_id, part)}")
        cursor.close()

    @contextmanager
    def migrating(self, connection: Connection) -> Iterator[None]:
        """Use a session lock.

        MySQL commits at every change of the schema, which releases a transaction's locks.
        """
        database = f"{MIGRATION}:{self.url.database}"[:64]
        if connection.dialect.is_mariadb:  # type: ignore[attr-defined]
            connection.exec_driver_sql(f"SET SESSION idle_transaction_timeout = {MIGRATION_S}")
        if connection.execute(select(func.get_lock(database, MIGRATION_S))).scalar() != 1:
            raise LogUnavailable(
                f"database {self.location}: another process has migrated it for {MIGRATION_S} s"
            )
        try:
            yield
            connection.commit()
        finally:
            connection.invalidate()  # the end of the session also ends its lock and its timeouts

    def _advance_mark(self) -> None:
        with self._advancing.connect() as connection:
            cursor: Any = connection.connection.cursor()
            cursor.execute(_ADVANCE)
            while cursor.nextset():
                pass
            cursor.close()

    def _make_engine(self, lock_s: int, statement_s: float, *, flags: int = 0, **pool: Any) -> Engine:
        """`statement_s`: 0 for no timeout."""
        answer_s = max(statement_s, ANSWER_S) if statement_s else None
        options = {
            # As SQLAlchemy sets it: an UPDATE counts the rows that it finds.
            "client_flag": CLIENT.FOUND_ROWS | flags,
            "connect_timeout": CONNECT_S,
            "read_timeout": answer_s,
            "write_timeout": answer_s,
        }
        engine = create_engine(
            self.url,
            max_overflow=0,
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            connect_args=options,
            **pool,
        )

        @event.listens_for(engine, "connect")
        def on_connect(connection: Any, _record: Any) -> None:
            settings = {"innodb_lock_wait_timeout": lock_s, "time_zone": "'+00:00'"}
            if "MariaDB" in connection.get_server_info():
                idle_s = IDLE_S if statement_s else SLOW_IDLE_S
                settings |= {"idle_transaction_timeout": idle_s, "max_statement_time": statement_s}
            else:
                settings |= {"wait_timeout": WAIT_S, "max_execution_time": round(1_000 * statement_s)}
            with connection.cursor() as cursor:
                cursor.execute("SET " + ", ".join(f"SESSION {name} = {to}" for name, to in settings.items()))

        return engine


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Groups of rows, each as large as one statement allows."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and (len(part) == INSERT_ROWS or size + len(row.event.data) > INSERT_BYTES):
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row.event.data)
    yield part


def _values(append_id: bytes, rows: Sequence[Row]) -> str:
    """The rows as hex literals, which takes a quarter of the driver's time for quoting."""
    types = {type: type.encode().hex() for type in {row.event.type for row in rows}}
    append = append_id.hex()
    return ",".join(
        [
            f"(x'{row.run_id.hex()}',{row.seq},x'{types[event.type]}',{event.version},{event.ends:d},"
            f"{event.at},x'{append}',x'{event.data.hex()}')"
            for row in rows
            for event in (row.event,)
        ]
    )


def _is_conflict(error: BaseException) -> bool:
    return _code(error) in CONFLICTS


def _is_in_the_way(error: Exception) -> bool:
    cause = cause_of(error)
    return _is_conflict(cause) or _code(cause) == STATEMENT_TIMEOUT


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, pymysql.Error):
        return False
    code = _code(error)
    return code in NO_FAULTS or not (isinstance(error, FAULTS) or code in MORE_FAULTS)


def _code(error: BaseException) -> Any:
    return error.args[0] if isinstance(error, pymysql.MySQLError) and error.args else None
