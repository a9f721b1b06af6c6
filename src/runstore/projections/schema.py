"""The tables of the projections: each may be dropped and rebuilt at any moment."""

from sqlalchemy import BigInteger, Column, Index, MetaData, SmallInteger, Table

from runstore.database.columns import Binary, Name

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "pk": "pk_%(table_name)s"}
)

# By what runs are listed, most selective first. MySQL's keys end at 3,072 bytes: two names, and a run id.
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
    # A list is looked up by the first of these whose columns it names, newest first: see `runs.py`.
    *(Index(index_name(columns), *columns, "purged", "deleted", "run_id") for columns in INDEXED),
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
