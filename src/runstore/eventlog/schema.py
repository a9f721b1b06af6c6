"""The tables. `events` is the truth; control tables hold what rules across runs need; no projection here."""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)  # fmt: skip

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class RunId(TypeDecorator[str]):
    """A run's id: text in Python, 16 bytes in the database."""

    impl = LargeBinary(16)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else pack_run_id(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else unpack_run_id(value)


def pack_run_id(run_id: str) -> bytes:
    return bytes.fromhex(run_id.replace("-", ""))


def unpack_run_id(value: bytes) -> str:
    return str(UUID(bytes=value))


Position = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts only an INTEGER PRIMARY KEY by itself

events = Table(
    "events",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=True),
    Column("run_id", RunId, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("type", String(128), nullable=False),
    Column("v", SmallInteger, nullable=False),
    Column("ends", SmallInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("append_id", LargeBinary(8), nullable=False),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("run_id", "seq"),
    sqlite_autoincrement=True,
)

open_runs = Table(
    "open_runs",
    metadata,
    Column("run_id", RunId, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("user_id", String(255), nullable=False),
    Column("session_id", String(255)),
    Column("attempt", Integer, nullable=False),
    Column("adoptions", Integer, nullable=False),
    Column("worker_id", String(64)),
    Column("queued_at", BigInteger, nullable=False),
    Column("cancel_at", BigInteger),
)

sessions = Table(
    "sessions",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("session_id", String(255), primary_key=True),
    Column("run_id", RunId, nullable=False),
)

session_runs = Table(
    "session_runs",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("session_id", String(255), primary_key=True),
    Column("run_id", RunId, primary_key=True),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("run_id", RunId, nullable=False),
    Column("body_hash", LargeBinary(32), nullable=False),
    Column("at", BigInteger, nullable=False),
)

Index("ix_open_runs_queued_at", open_runs.c.queued_at)
Index("ix_open_runs_user_id", open_runs.c.user_id)
Index("ix_idempotency_at", idempotency.c.at)
