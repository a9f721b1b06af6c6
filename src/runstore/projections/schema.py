"""The tables of the projections: each may be dropped and rebuilt at any moment."""

from sqlalchemy import BigInteger, Column, Index, MetaData, SmallInteger, Table

from runstore.columns import Binary, Name

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"}
)

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
    *(
        Index(f"ix_runs_{c}_run_id", c, "run_id")
        for c in ("status", "user_id", "agent_name", "session_id", "workspace_id", "purged")
    ),
)

# A projection in the making. It is always there: a rebuild changes no schema, which MySQL does not do in a
# transaction, and others may not be allowed to.
runs_shadow = runs.to_metadata(metadata, name="runs_shadow")
for index in list(runs_shadow.indexes):
    runs_shadow.indexes.remove(index)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("name", Name(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
)
