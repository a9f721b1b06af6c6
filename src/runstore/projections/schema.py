"""The tables of the projections: each may be dropped and rebuilt at any moment."""

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, SmallInteger, String, Table

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"}
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String(36), primary_key=True),
    Column("user_id", String(255), nullable=False),
    Column("agent_name", String(255), nullable=False),
    Column("session_id", String(255)),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("deleted", SmallInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("workspace_id", String(255)),
    *(
        Index(f"ix_runs_{c}_run_id", c, "run_id")
        for c in ("status", "user_id", "agent_name", "session_id", "workspace_id")
    ),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
)
