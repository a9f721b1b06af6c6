"""PostgreSQL, through psycopg."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import psycopg
import structlog
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, create_engine, event, exc
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
    REPLICA_CHECK_S,
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
from runstore.database.dialects.servers import (
    HighWaterMark,
    ServerDialect,
    ServerErrors,
    cause_of,
    first_line,
)
from runstore.database.partitions import BOUND, VALIDATE, check_positions
from runstore.database.tables import barrier

log = structlog.get_logger(__name__)

LEAST_VERSION = (14,)
BARRIER, MIGRATION, USERS = 0x52554E01, 0x52554E02, 0x52554E03  # advisory locks: "RUN" and a number

# SQLSTATE, PostgreSQL's appendix A: unique violation, lock not available, deadlock, serialization failure
CONFLICTS = frozenset({"23505", "55P03", "40P01", "40001"})
CANCEL_S = 0.5  # seconds beyond the server's own timeout, so that its answer comes first
TIMEOUT = "57014"  # query canceled; a replica that has to remove rows cancels with 40001
# Errors of the data or the statement: features, cardinality, data, integrity, syntax, program limits, custom
# triggers and checks. All others may pass, and fail no run.
FAULTS = ("0A", "21", "22", "23", "2F", "38", "39", "42", "44", "54", "P0")
NO_FAULTS = frozenset({"42501", "42P01"})  # revoked rights, a missing table

# A statement that waited for a lock does not see commits since its start; the next statement does.
_SHARE = f"SELECT pg_advisory_xact_lock_shared({BARRIER})"
_EXCLUSIVE = f"SELECT pg_advisory_xact_lock({BARRIER})"
_PURGES = "SELECT purges FROM barrier"
# An acknowledged commit is on disk, even if the server's default for a role or database differs.
_SYNCED = (
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
    " ELSE current_setting('synchronous_commit') END"
)
_INSERT = (
    f"INSERT INTO events ({COLUMNS}) SELECT run_id, seq, type, v, ends, at, %b::bytea, data "
    "FROM unnest(%b::bytea[], %b::int8[], %b::text[], %b::int2[], %b::int2[], %b::int8[], %b::bytea[]) "
    "AS new (run_id, seq, type, v, ends, at, data)"
)
# Sent with its BEGIN in one round trip, so that a client that is suspended just now does not hold the
# barrier. A separate statement reads the highest position: the one that waited for the lock sees only the
# state before its wait.
_ADVANCE = f"""
    SELECT pg_advisory_xact_lock({BARRIER});
    UPDATE barrier SET closed_upto = GREATEST(closed_upto, (SELECT coalesce(max(position), 0) FROM events));
    COMMIT
"""

# Cancels the conversion to partitions that validates the bound, and drops the bound. The first lock is waited
# for longer, as no reader or writer waits behind it: in a second, it stops an autovacuum.
_DROP_BOUND = f"""
    SET LOCAL lock_timeout = '{EXCLUSIVE_S}s';
    SELECT pg_cancel_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND relation = 'events'::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted
    AND usesysid = current_user::regrole AND starts_with(query, '{VALIDATE}');
    LOCK TABLE ONLY events IN SHARE UPDATE EXCLUSIVE MODE;
    SET LOCAL lock_timeout = '{LOCK_S}s';
    ALTER TABLE events DROP CONSTRAINT IF EXISTS {BOUND};
    COMMIT
"""

_DATABASE = "(SELECT system_identifier FROM pg_control_system()) || ' ' || current_database()"
# Positions of two timelines do not compare: each failover begins a new one. The first 8 hex digits of a WAL
# file's name are its timeline.
_WRITTEN = f"""
    SELECT lsn || ' ' || ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::int || ' ' || {_DATABASE}
    FROM pg_current_wal_flush_lsn() AS lsn
"""
# A replica reaches a timeline only from a position on it. The first source is up to date, but only members of
# pg_read_all_stats see it; the others follow at the replica's next restart point.
_REPLAYED = f"""
    SELECT CASE WHEN pg_is_in_recovery() THEN {_DATABASE} END,
        pg_last_wal_replay_lsn() >= %s::pg_lsn AND %s = greatest(
            (SELECT received_tli FROM pg_stat_wal_receiver),
            (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
            (SELECT timeline_id FROM pg_control_checkpoint())
        )
"""


class _Connection(psycopg.Connection[Any]):
    """A connection that is closed if the server does not answer in time, as it may have gone silently."""

    answer_s: float | None = None
    begin = "BEGIN"  # how to begin a transaction, with the settings that the session does not keep
    pooled = False  # whether another client may use the server's session between two transactions

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_s)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()  # a late answer would belong to an abandoned statement
            raise


class PostgresDialect(ServerDialect):
    """A server with concurrent writers, which wait only for each other's seqs and users."""

    name: Literal["sqlite", "postgresql", "mysql"] = "postgresql"

    def __init__(self, url: URL, *, statement_timeout: bool = True, connect_s: int = CONNECT_S) -> None:
        super().__init__(url)
        self.engine = create_engine(
            url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"connect_timeout": connect_s, "client_encoding": "UTF8"},
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
        check_positions(connection)

    def begin_write(self, connection: Connection, *, exclusive: bool = False) -> int:
        waiting = [f"SET LOCAL lock_timeout = '{EXCLUSIVE_S}s'", _EXCLUSIVE] if exclusive else [_SHARE]
        with _begun(connection) as driver, driver.cursor() as cursor:
            cursor.execute("; ".join([driver.begin, *waiting, _PURGES]))
            while cursor.nextset():
                pass
            (purges,) = cursor.fetchone() or (0,)
        return int(purges)

    def begin_apart(self, connection: Connection) -> None:
        """See `Dialect.begin_apart`."""
        connection.exec_driver_sql(_driver(connection).begin)

    @contextmanager
    def answering(self, connection: Connection) -> Iterator[None]:
        """See `Dialect.answering`. Without a session of its own, the timeout needs a transaction.

        That may be idle for as long, as it holds no lock that writers wait for.
        """
        if _driver(connection).pooled:
            patience = f"SET LOCAL idle_in_transaction_session_timeout = '{ANSWER_S}s'"
            connection.exec_driver_sql(f"{_driver(connection).begin}; {patience}")
        yield

    def begin_derived(self, connection: Connection) -> None:
        """See `Dialect.begin_derived`."""
        connection.exec_driver_sql(f"{_driver(connection).begin}; SET LOCAL synchronous_commit = off")

    def lock_users(self, connection: Connection, find: Callable[[], Collection[str]]) -> None:
        if slots := user_slots(find()):
            locks = f"SELECT pg_advisory_xact_lock({USERS}, slot) FROM unnest(%s::int4[]) AS slot"
            connection.exec_driver_sql(locks, (slots,))

    def size(self, connection: Connection) -> int:
        """See `Dialect.size`. All files of the database, without the server's WAL."""
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())

    def touch(self, connection: Connection) -> None:
        connection.execute(barrier.update().values(id=barrier.c.id))

    def insert_events(self, connection: Connection, append_id: bytes, rows: Sequence[Row]) -> None:
        with _driver(connection).cursor() as cursor:
            cursor.execute(_INSERT, _pack(append_id, rows))

    def give_way(self, error: Exception) -> None:
        """See `Dialect.give_way`. An event beyond the bound ends a conversion to partitions."""
        if not _is_beyond_bound(cause_of(error)):
            return
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql(f"{_driver(connection).begin}; {_DROP_BOUND}")
        except exc.SQLAlchemyError as refused:  # the event is held back, and tried again
            log.warning("bound_not_dropped", error=first_line(cause_of(refused)))

    def written(self, connection: Connection) -> str:
        """See `Replicated.written`. An acknowledged commit is flushed, and only that is sent to replicas."""
        return str(connection.exec_driver_sql(_WRITTEN).scalar_one())

    def replayed(self, connection: Connection, written: str) -> bool:
        """See `Replicated.replayed`."""
        lsn, timeline, database = written.split(" ", 2)
        replica_of, far = connection.exec_driver_sql(_REPLAYED, (lsn, int(timeline))).one()
        if replica_of != database:
            raise wrong_url(self.url, "it is not a replica of the database at `database_url`")
        return bool(far)

    @contextmanager
    def hurrying(self, connection: Connection) -> Iterator[None]:
        """See `Replicated.hurrying`."""
        driver = _driver(connection)
        answer_s, driver.answer_s = driver.answer_s, REPLICA_CHECK_S
        try:
            yield
        finally:
            driver.answer_s = answer_s

    def is_timeout(self, error: Exception) -> bool:
        """See `Replicated.is_timeout`."""
        return getattr(cause_of(error), "sqlstate", None) == TIMEOUT

    @contextmanager
    def migrating(self, connection: Connection) -> Iterator[None]:
        with connection.begin():
            patience = ("lock_timeout", "idle_in_transaction_session_timeout")
            settings = [f"SET LOCAL {timeout} = '{MIGRATION_S}s'" for timeout in patience]
            connection.exec_driver_sql("; ".join([_driver(connection).begin, *settings]))
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION})")
            yield

    def _advance_mark(self) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(f"{_driver(connection).begin}; {_ADVANCE}")

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
                "default_transaction_isolation": "'read committed'",
                "lock_timeout": f"'{LOCK_S}s'",
                "idle_in_transaction_session_timeout": f"'{IDLE_S if answer_s else SLOW_IDLE_S}s'",
                "statement_timeout": f"'{answer_s}s'" if answer_s else "'0'",
                "TimeZone": "'UTC'",
                "bytea_output": "'hex'",
                "synchronous_commit": _SYNCED,
            }
            pid = connection.pgconn.backend_pid
            # Behind a pooler they would stay with a session that other clients use, so that they end here.
            configure = _set(settings, local=f"pg_backend_pid() <> {pid}")
            server_pid, *_ = connection.execute(configure.encode()).fetchone() or (0,)
            if server_pid != pid:  # `pid` is the pooler's invention
                connection.pooled = True
                connection.prepare_threshold = None  # another session does not have the statement
                # A transaction takes its isolation from its first statement, before it takes any setting.
                connection.begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {_set(settings, local='true')}"
            connection.answer_s = answer_s and answer_s + CANCEL_S


def _set(settings: Mapping[str, str], *, local: str) -> str:
    """A query that makes settings; its first column is the process id of the server's session.

    Args:
        settings: each as an expression.
        local: an expression: whether they end with the transaction.
    """
    configs = [f"set_config('{name}', {value}, {local})" for name, value in settings.items()]
    return f"SELECT {', '.join(['pg_backend_pid()', *configs])}"


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
    return getattr(error, "sqlstate", None) in CONFLICTS or _is_beyond_bound(error)


def _is_beyond_bound(error: BaseException) -> bool:
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name == BOUND


def _may_pass(error: BaseException) -> bool:
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # not from the server: it is unreachable, or the connection was lost
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    fault = error.sqlstate.startswith(FAULTS) and error.sqlstate not in NO_FAULTS
    return not fault or _is_beyond_bound(error)
