"""Counts the rows that a database reads for a query, on each kind of database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event


@contextmanager
def rows_read(connection: Connection) -> Iterator[list[int]]:
    """How many rows the database reads for the statements of the block; of SQLite, steps by the dozen."""
    read: list[int] = []
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        driver.set_progress_handler(lambda: read.append(1), 12)
        yield read
        driver.set_progress_handler(None, 0)
        return
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    yield read
    event.remove(connection, "before_cursor_execute", note)
    assert statements
    for statement, parameters in statements:
        with driver.cursor() as cursor:
            if connection.dialect.name == "postgresql":
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
                read.append(_rows_of(cursor.fetchone()[0][0]["Plan"]))
            else:
                cursor.execute("FLUSH STATUS")
                cursor.execute(statement, parameters)
                cursor.fetchall()
                cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
                read.append(sum(int(count) for name, count in cursor.fetchall() if "tmp" not in name.lower()))


def _rows_of(plan: dict[str, Any]) -> int:
    """Of a plan of PostgreSQL's, the rows that its scans have met."""
    below = sum(map(_rows_of, plan.get("Plans", [])))
    if "Scan" not in plan["Node Type"] or plan["Node Type"] == "Subquery Scan":
        return below
    rows = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
    return below + round(rows * plan["Actual Loops"])
