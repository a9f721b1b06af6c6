"""Makes the run list's rows small even for large runs, and adds an index for each way of listing runs."""

import msgspec
import sqlalchemy as sa
from alembic import op

from runstore.core.depth import decoded
from runstore.migrations import steps

revision = "0006"
down_revision = "0005"

_OLD = ("status", "user_id", "agent_name", "session_id", "workspace_id", "purged")
_NEW = (
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
# Large fields, and the values that replace them.
_LARGE = {"metadata": b"{}", "result": b"null", "usage": b"{}"}
_LARGEST = 4_096  # bytes of one such field in the list; larger values stay in the log only
_ROWS = 20  # rows per read, as each may have megabytes
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def upgrade() -> None:
    for column in _OLD:
        steps.drop_index(f"ix_runs_{column}_run_id", "runs")
    op.execute("UPDATE runs SET deleted = 0 WHERE purged = 1")  # purged runs have their own list
    _shorten(op.get_bind())
    op.execute("DELETE FROM runs_shadow")  # an interrupted rebuild starts over
    op.execute("DELETE FROM checkpoints WHERE name = 'runs_shadow'")
    for columns in _NEW:
        name = "_".join(["ix_runs", *columns, "list"])
        steps.create_index(name, "runs", [*columns, "purged", "deleted", "run_id"])


def _shorten(connection: sa.Connection) -> None:
    runs = sa.table("runs", sa.column("run_id"), sa.column("state", sa.LargeBinary))
    large = (
        sa.select(runs.c.run_id, runs.c.state)
        .where(sa.func.length(runs.c.state) > _LARGEST, runs.c.run_id > sa.bindparam("after"))
        .order_by(runs.c.run_id)
        .limit(_ROWS)
    )
    change = sa.update(runs).where(runs.c.run_id == sa.bindparam("id")).values(state=sa.bindparam("short"))
    after = b"" if connection.dialect.name in ("mysql", "mariadb") else ""
    while rows := connection.execute(large, {"after": after}).all():
        connection.execute(change, [{"id": run_id, "short": _short(state)} for run_id, state in rows])
        after = rows[-1].run_id


def _short(state: bytes) -> bytes:
    fields = decoded(_fields, state)  # an older release has stored some that are nested deeper
    left_out = [name for name in _LARGE if len(fields.get(name, b"")) > _LARGEST]
    for name in left_out:
        fields[name] = msgspec.Raw(_LARGE[name])
    if left_out:
        fields["truncated"] = msgspec.Raw(msgspec.json.encode(left_out))
    return msgspec.json.encode(fields)
