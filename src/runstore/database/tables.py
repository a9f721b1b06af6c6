"""The tables. `events` is the truth; control tables hold what rules across runs need; no projection here."""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, SmallInteger, Table, UniqueConstraint

from runstore.database.columns import Binary, Name, Position, RunId

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


events = Table(
    "events",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("run_id", RunId, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("type", Name(128), nullable=False),
    Column("v", SmallInteger, nullable=False),
    Column("ends", SmallInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("append_id", Binary(8), nullable=False),
    Column("data", Binary, nullable=False),
    UniqueConstraint("run_id", "seq"),
    sqlite_autoincrement=True,
)

open_runs = Table(
    "open_runs",
    metadata,
    Column("run_id", RunId, primary_key=True),
    Column("status", Name(16), nullable=False),
    Column("user_id", Name(255), nullable=False),
    Column("session_id", Name(255)),
    Column("attempt", Integer, nullable=False),
    Column("adoptions", Integer, nullable=False),
    Column("worker_id", Name(64)),
    Column("queued_at", BigInteger, nullable=False),
    Column("cancel_at", BigInteger),
)

sessions = Table(
    "sessions",
    metadata,
    Column("user_id", Name(255), primary_key=True),
    Column("session_id", Name(255), primary_key=True),
    Column("run_id", RunId, nullable=False),
)

session_runs = Table(
    "session_runs",
    metadata,
    Column("user_id", Name(255), primary_key=True),
    Column("session_id", Name(255), primary_key=True),
    Column("run_id", RunId, primary_key=True),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("user_id", Name(255), primary_key=True),
    Column("key", Name(255), primary_key=True),
    Column("run_id", RunId, nullable=False),
    Column("body_hash", Binary(32), nullable=False),
    Column("at", BigInteger, nullable=False),
)

barrier = Table(
    "barrier",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("closed_upto", BigInteger, key="high_water_mark", nullable=False),
    Column("purges", BigInteger, nullable=False),
)

user_locks = Table(
    "user_locks", metadata, Column("slot", SmallInteger, primary_key=True, autoincrement=False)
)

purging = Table("purging", metadata, Column("run_id", RunId, primary_key=True))

Index("ix_open_runs_queued_at", open_runs.c.queued_at)
Index("ix_open_runs_user_id", open_runs.c.user_id)
Index("ix_open_runs_worker_id", open_runs.c.worker_id)
Index("ix_idempotency_at", idempotency.c.at)
