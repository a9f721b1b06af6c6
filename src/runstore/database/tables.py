"""All tables.

`events` is the source of truth. Control tables are written in the append's own transaction, for rules across
runs. Projections are disposable, and rebuilt from the log. Other tables hold users' own data.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    Select,
    SmallInteger,
    Table,
    UniqueConstraint,
    select,
)

from runstore.database.columns import MYSQL, Binary, Name, Position, RunId

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


# ---- the log ----

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

# ---- control ----

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
    Column("expires_at", BigInteger),
    Column("added", BigInteger),
    Index("ix_open_runs_expires_at", "expires_at"),
    Index("ix_open_runs_queued_at", "queued_at"),
    Index("ix_open_runs_user_id", "user_id"),
    Index("ix_open_runs_worker_id", "worker_id"),
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
    Column("position", BigInteger),  # the run's first event; NULL: written before schema 0015
    Index("ix_session_runs_position", "user_id", "session_id", "position"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("user_id", Name(255), primary_key=True),
    Column("key", Name(255), primary_key=True),
    Column("run_id", RunId, nullable=False),
    Column("body_hash", Binary(32), nullable=False),
    Column("at", BigInteger, nullable=False),
    Index("ix_idempotency_at", "at"),
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

workers = Table(
    "workers",
    metadata,
    Column("worker_id", Name(64), primary_key=True),
    Column("host", Name(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("beat_at", BigInteger),
)

# ---- users' data ----

hierarchies = Table(
    "hierarchies",
    metadata,
    Column("hierarchy_id", Name(36), primary_key=True),
    Column("user_id", Name(255), nullable=False),
    Column("name", Name(255), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("definition", Binary, nullable=False),
    Index("ix_hierarchies_user_id_hierarchy_id", "user_id", "hierarchy_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Name(16), primary_key=True),
    Column("secret_hash", Binary(32), nullable=False),
    Column("user_id", Name(255), nullable=False),
    Column("role", Name(16), nullable=False),
    Column("name", Name(255), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
)

server_secrets = Table(
    "server_secrets",
    metadata,
    Column("name", Name(64), primary_key=True),
    Column("value", Binary(32), nullable=False),
)

# ---- projections ----

# The columns by which runs are listed, most selective first. MySQL's keys end at 3,072 bytes: two names and
# a run id.
Columns = tuple[str, ...]
INDEXED: tuple[Columns, ...] = (
    ("user_id", "session_id"),
    ("user_id", "agent_name"),
    ("user_id", "status"),
    ("user_id",),
    ("workspace_id",),
    ("session_id",),
    ("agent_name",),
    ("status",),
    (),
)


def index_name(columns: Columns) -> str:
    return "_".join(["ix_runs", *columns, "list"])


runs = Table(
    "runs",
    metadata,
    Column("run_id", Name(36), primary_key=True),
    Column("user_id", Name(255), nullable=False),
    Column("agent_name", Name(255), nullable=False),
    Column("session_id", Name(255)),
    Column("status", Name(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("deleted", SmallInteger, nullable=False),
    Column("state", Binary, nullable=False),
    Column("workspace_id", Name(255)),
    Column("purged", SmallInteger, nullable=False, server_default="0"),
    # A list uses the first index whose columns its query names: see `projections/runs.py`.
    *(Index(index_name(columns), *columns, "purged", "deleted", "run_id") for columns in INDEXED),
    Index("ix_runs_created_at", "created_at"),  # the view `audit_runs` sorts by it
)


def select_listed(by: Columns) -> Select[Any]:
    """The ids of runs, read by the index of these columns: see INDEXED."""
    listed = select(runs.c.run_id)
    for dialect in MYSQL:  # its own choice may read all rows and sort
        listed = listed.with_hint(runs, f"FORCE INDEX ({index_name(by)})", dialect)
    return listed


# The run list that a rebuild fills. The table always exists: MySQL cannot change the schema within a
# transaction, and a rebuild may lack the right to.
runs_shadow = runs.to_metadata(metadata, name="runs_shadow")
for index in list(runs_shadow.indexes):
    runs_shadow.indexes.remove(index)

# How far each projection has come: a row for each of its two sets of tables. See `projections/builds.py`.
projections = Table(
    "projections",
    metadata,
    Column("name", Name(64), primary_key=True),
    Column("slot", Name(1), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("fingerprint", Name(64), nullable=False),
    Column("inline", SmallInteger, nullable=False),
    Column("tables", Binary, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("live", SmallInteger, nullable=False),
    Column("state", Name(16), nullable=False),
    Column("error", Binary),
    Column("error_position", BigInteger),
    Column("skipped", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("owner", Name(64)),
    Column("beat", BigInteger, nullable=False),
)
