"""PostgreSQL, through psycopg."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL

from runstore.database.dialects.base import (
    ANSWER_S,
    COLUMNS,
    CONNECT_S,
    CONNECTIONS,
    EXCLUSIVE_S,
    IDLE_S,
    LOCK_S,
    MIGRATION_S,
    SLOW_IDLE_S,
    Row,
    check_version,
    user_slots,
    wrong_url,
)
from runstore.database.dialects.postgresql_arrays import (
    BYTEA,
    INT2,
    INT8,
    TEXT,
    Packed,
    PackedDumper,
    pack_bytes,
    pack_numbers,
)
from runstore.database.dialects.servers import HighWaterMark, ServerDialect, ServerErrors
from runstore.database.tables import barrier

LEAST_VERSION = (14,)
BARRIER, MIGRATION, USERS = 0x52554E01, 0x52554E02, 0x52554E03  # advisory locks: "RUN" and a number

# SQLSTATE, PostgreSQL's appendix A: unique violation, lock not available, deadlock, serialization failure
CONFLICTS = frozenset({"23505", "55P03", "40P01", "40001"})
# Errors of the data or the statement: features, cardinality, data, integrity, syntax, program limits, custom
# triggers and checks. All others may pass, and fail no run.
FAULTS = ("0A", "21", "22", "23", "2F", "38", "39", "42", "44", "54", "P0")
NO_FAULTS = frozenset({"42501", "42P01"})  # revoked rights, a missing table

# A statement that waited for a lock does not see commits since its start; the next statement does.
_SHARE = f"SELECT pg_advisory_xact_lock_shared({BARRIER})"
_EXCLUSIVE = f"SELECT pg_advisory_xact_lock({BARRIER})"
_PURGES = "SELECT purges FROM barrier"
_INSERT = (
    f"INSERT INTO events ({COLUMNS}) SELECT run_id, seq, type, v, ends, at, %b::bytea, data "
    "FROM unnest(%b::bytea[], %b::int8[], %b::text[], %b::int2[], %b::int2[], %b::int8[], %b::bytea[]) "
    "AS new (run_id, seq, type, v, ends, at, data)"
)
# One round trip, so that a client that is suspended just now does not hold the barrier. A separate statement
# reads the highest position: the one that waited for the lock sees only the state before its wait.
_ADVANCE = f"""
    BEGIN;
    SELECT pg_advisory_xact_lock({BARRIER});
    UPDATE barrier SET closed_upto = GREATEST(closed_upto, (SELECT coalesce(max(position), 0) FROM events));
    COMMIT
"""


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed if the server does not answer in time, as it may have gone silently."""

    answer_s: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_s)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # a late answer would belong to an abandoned statement
            raise


class PostgresDialect(ServerDialect):
    """A server with concurrent writers, which wait only for each other's seqs and users."""

    def __init__(self, url: URL, *, statement_timeout: bool = True) -> None:
        super().__init__(url)
        self.engine = create_engine(
            url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"connect_timeout": CONNECT_S, "client_encoding": "UTF8"},
        )
        errors = ServerErrors(url, conflicts=_is_conflict, passes=_may_pass)
        self.is_conflict, self.unavailable = errors.is_conflict, errors.unavailable
        self.high_water_mark = HighWaterMark(self.engine, self._advance_mark, errors.is_conflict).upto
        self._set_up(ANSWER_S if statement_timeout else None)

    def close(self) -> None:
        self.engine.dispose()

    def check(self, connection: Connection) -> None:
        check_version(self.url, "PostgreSQL", connection.dialect.server_version_info, LEAST_VERSION)
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise wrong_url(
                self.url,
                f"the database's encoding is {encoding}; runstore needs UTF8: "
                "createdb --template template0 --encoding UTF8 NAME",
            )

    def begin_write(self, connection: Connection, *, exclusive: bool = False) -> int:
        waiting = [f"SET LOCAL lock_timeout = '{EXCLUSIVE_S}s'", _EXCLUSIVE] if exclusive else [_SHARE]
        with _begun(connection) as driver, driver.cursor() as cursor:
            cursor.execute("; ".join(["BEGIN", *waiting, _PURGES]))
            while cursor.nextset():
                pass
            (purges,) = cursor.fetchone() or (0,)
        return int(purges)

    def begin_derived(self, connection: Connection) -> None:
        """See `Dialect.begin_derived`."""
        connection.exec_driver_sql("BEGIN; SET LOCAL synchronous_commit = off")

    def lock_users(self, connection: Connection, find: Callable[[], Collection[str]]) -> None:
        if slots := user_slots(find()):
            locks = f"SELECT pg_advisory_xact_lock({USERS}, slot) FROM unnest(%s::int4[]) AS slot"
            connection.exec_driver_sql(locks, (slots,))

    def touch(self, connection: Connection) -> None:
        connection.execute(barrier.update().values(id=barrier.c.id))

    def insert_events(self, connection: Connection, append_id: bytes, rows: Sequence[Row]) -> None:
        with _driver(connection).cursor() as cursor:
            cursor.execute(_INSERT, _pack(append_id, rows))

    @contextmanager
    def migrating(self, connection: Connection) -> Iterator[None]:
        with connection.begin():
            patience = ("lock_timeout", "idle_in_transaction_session_timeout")
            settings = [f"SET LOCAL {timeout} = '{MIGRATION_S}s'" for timeout in patience]
            connection.exec_driver_sql("; ".join(["BEGIN", *settings]))
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION})")
            yield

    def _advance_mark(self) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(_ADVANCE)

    def _set_up(self, answer_s: float | None) -> None:
        @event.listens_for(self.engine, "do_connect")
        def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> _Connection:
            return _Connection.connect(*arguments, **options)

        @event.listens_for(self.engine, "connect")
        def on_connect(connection: _Connection, _record: Any) -> None:
            # Writers send BEGIN themselves; a read then takes one round trip, not three.
            connection.autocommit = True
            connection.adapters.register_dumper(Packed, PackedDumper)
            settings = {
                # A writer that waited for a lock must see the commits since then, even if the server's
                # default differs.
                "default_transaction_isolation": "read committed",
                "lock_timeout": f"{LOCK_S}s",
                "idle_in_transaction_session_timeout": f"{IDLE_S if answer_s else SLOW_IDLE_S}s",
                "statement_timeout": f"{answer_s}s" if answer_s else "0",
                "TimeZone": "UTC",
            }
            names = ", ".join(["set_config(%s, %s, false)"] * len(settings))
            # An acknowledged commit is on disk, even if the server's default for a role or database differs.
            synced = "set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' "
            synced += "THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
            connection.execute(
                f"SELECT {names}, {synced}", [part for setting in settings.items() for part in setting]
            )
            connection.answer_s = answer_s


def _driver(connection: Connection) -> _Connection:
    return cast(_Connection, connection.connection.driver_connection)


@contextmanager
def _begun(connection: Connection) -> Iterator[_Connection]:
    """The driver's connection, in a transaction from SQLAlchemy's view, so that it notices a failure."""
    connection.begin()
    driver = _driver(connection)
    try:
        yield driver
    except psycopg.Error:
        if driver.closed:
            connection.invalidate()
        raise


def _pack(append_id: bytes, rows: Sequence[Row]) -> list[Packed]:
    events = [row.event for row in rows]
    return [
        Packed(append_id),
        pack_bytes(BYTEA, [row.run_id for row in rows]),
        pack_numbers(INT8, [row.seq for row in rows]),
        pack_bytes(TEXT, [event.type.encode() for event in events]),
        pack_numbers(INT2, [event.version for event in events]),
        pack_numbers(INT2, [event.ends for event in events]),
        pack_numbers(INT8, [event.at for event in events]),
        pack_bytes(BYTEA, [event.data for event in events]),
    ]


def _is_conflict(error: BaseException) -> bool:
    return getattr(error, "sqlstate", None) in CONFLICTS


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # not from the server: it is unreachable, or the connection was lost
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return not error.sqlstate.startswith(FAULTS) or error.sqlstate in NO_FAULTS
