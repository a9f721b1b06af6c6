"""Rows that are alike are inserted as one value, and read back as they were."""

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstore.core.codec import encode
from runstore.core.events import Custom, Event, Reasoning, Token
from runstore.database.dialects import Row
from runstore.database.dialects.sqlite_inserts import LEAST_ALIKE, insert

APPEND_ID = b"\0" * 8
TABLE = "CREATE TABLE events (position INTEGER PRIMARY KEY, run_id BLOB, seq INTEGER, type TEXT, v INTEGER, "
TABLE += "ends INTEGER, at BIGINT, append_id BLOB, data BLOB, UNIQUE (run_id, seq))"

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["", "\0", '"\\u0000', "\u2028", "🙂%"]
)
tokens = st.lists(texts.map(lambda text: Token(text=text, agent="a")), min_size=1, max_size=3 * LEAST_ALIKE)
others = st.lists(
    texts.map(lambda text: Reasoning(text=text, agent="a"))
    | texts.map(lambda text: Custom("custom.x", text)),
    max_size=LEAST_ALIKE,
)
runs = st.lists(
    st.tuples(st.integers(1, 1_000), st.lists(tokens | others, max_size=4)), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(TABLE)
    yield connection
    connection.close()


@given(runs, st.integers(0, 9_999_999_999_999))
def test_all_rows_are_stored_in_their_order(
    connection: sqlite3.Connection, runs: list[tuple[int, list[list[Event | Custom]]]], at: int
) -> None:
    rows = [
        Row(b"%016d" % number, seq, encode(event, at=max(0, at - seq)))
        for number, (first, groups) in enumerate(runs)
        for seq, event in enumerate((event for group in groups for event in group), first)
    ]
    connection.execute("DELETE FROM events")
    insert(connection, APPEND_ID, rows)
    columns = "run_id, seq, type, v, ends, at, append_id, data"
    stored = connection.execute(f"SELECT {columns} FROM events ORDER BY position").fetchall()
    assert stored == [
        (row.run_id, row.seq, e.type, e.version, e.ends, e.at, APPEND_ID, e.data)
        for row in rows
        for e in [row.event]
    ]
    kinds = "SELECT DISTINCT typeof(run_id), typeof(type), typeof(at), typeof(data) FROM events"
    assert connection.execute(kinds).fetchall() in ([], [("blob", "text", "integer", "blob")])
