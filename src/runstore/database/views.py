"""Views for programs that read the database by SQL, such as BI tools: the same columns on every database.

Run ids are text, data are JSON, times are UTC. `audit_runs` and `audit_usage` read the projection `usage`,
whose live tables change: a process that makes others live writes the views again.
"""

from typing import ClassVar, Literal

from msgspec import Struct
from sqlalchemy import Connection, inspect, text

from runstore.core.audit import SAY_WHO
from runstore.core.outcomes import RUN_COUNTS
from runstore.core.usage import CALL_SUMS
from runstore.database.columns import MYSQL

Type = Literal["text", "integer", "cost", "time", "date", "json", "key"]

VIEWS = ("audit_events", "audit_runs", "audit_usage")
NANO = 1_000_000_000  # nano units in a unit of money
CUSTOM = "e.type LIKE 'custom.%' AND e.v = 2"  # stored as {"by": …, "key_id": …, "data": …}
# Databases keep their views: a new type in `SAY_WHO` needs a migration that calls `renew_views`.
SAYS_WHO = f"e.type IN ({', '.join(repr(type) for type in sorted(SAY_WHO))})"


class Column(Struct, frozen=True):
    """A column of a view. `stored`: an expression on the tables."""

    name: str
    stored: str
    type: Type = "text"


RUNS = [
    Column("run_id", "r.run_id"), Column("user_id", "r.user_id"), Column("agent", "r.agent_name"),
    Column("session_id", "r.session_id"), Column("workspace_id", "r.workspace_id"),
    Column("status", "r.status"), Column("created_at", "r.created_at", "time"),
    Column("completed_at", "r.completed_at", "time"), Column("created_ms", "r.created_at", "integer"),
    Column("deleted", "r.deleted", "integer"), Column("purged", "r.purged", "integer"),
    Column("state", "r.state", "json"),
]  # fmt: skip
USED = [
    Column("error_code", "u.error_code"), Column("stopped_by", "u.stopped_by"),
    Column("duration_ms", "u.duration_ms", "integer"), Column("calls", "u.calls", "integer"),
    Column("tokens", "u.tokens", "integer"), Column("cost", "u.cost", "cost"),
    Column("currency", "u.currency"), Column("incomplete", "u.incomplete", "integer"),
    Column("unpriced", "u.unpriced", "integer"),
]  # fmt: skip
USAGE = [
    Column("day", "t.day", "date"), Column("user_id", "t.user_id"), Column("agent", "t.agent"),
    Column("model", "t.model"), Column("currency", "t.currency"), Column("cost", "t.cost", "cost"),
    *(Column(name, f"t.{name}", "integer") for name in (*RUN_COUNTS, *CALL_SUMS)),
]  # fmt: skip


def write_views(connection: Connection, slot: str | None) -> None:
    """Create the views, or replace them if they read other tables. MySQL commits.

    Args:
        slot: of the live tables of `usage`; None: without such tables, the views show no usage.
    """
    existing = set(inspect(connection).get_view_names())
    if {*VIEWS} <= existing and _reads(connection) == slot:
        return
    _write(connection, slot)


def renew_views(connection: Connection) -> None:
    """Write the views of an older release again, on the tables that they read. MySQL commits."""
    _write(connection, _reads(connection))


def replace_events_view(connection: Connection) -> str:
    """The statement that writes `audit_events` again, for a new table `events`. Not on SQLite."""
    return _replace("audit_events", _queries(connection.dialect.name, None)["audit_events"])


def _replace(name: str, query: str) -> str:
    return f"CREATE OR REPLACE VIEW {name} AS {query}"  # keeps the rights that were granted on it


def _write(connection: Connection, slot: str | None) -> None:
    for name, query in _queries(connection.dialect.name, slot).items():
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
            connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")
        else:
            connection.execute(text(_replace(name, query).replace(":", "\\:")))


def _reads(connection: Connection) -> str | None:
    """The slot whose tables the views read."""
    defined = inspect(connection).get_view_definition("audit_usage") or ""
    return next((slot for slot in ("a", "b") if f"usage_{slot}" in defined), None)


def _queries(dialect: str, slot: str | None) -> dict[str, str]:
    sql = _Mysql() if dialect in MYSQL else _Postgresql() if dialect == "postgresql" else _Sqlite()
    return {"audit_events": sql.events(), "audit_runs": sql.runs(slot), "audit_usage": sql.usage(slot)}


class _Sqlite:
    """The expressions of SQLite, and the queries of the views."""

    types: ClassVar[dict[Type, str]] = {
        "text": "{0}", "integer": "{0}", "cost": f"({{0}} / {NANO}.0)", "date": "{0}", "key": "{0}",
        "time": "strftime('%Y-%m-%dT%H:%M:%fZ', {0} / 1000.0, 'unixepoch')", "json": "CAST({0} AS TEXT)",
    }  # fmt: skip
    nothing: ClassVar[dict[Type, str]] = dict.fromkeys(types, "NULL")
    text = "CAST({0} AS TEXT)"  # the JSON of a column as text
    json = "{0}"  # the same text, as the type of `data`
    part = "json_extract({0}, '$.{1}')"
    found = "instr({0}, '{1}')"
    length = "length({0})"
    joined = "r.run_id = {0}"
    hexed = "lower(hex({0}))"

    def shown(self, column: Column) -> str:
        return f"{self.types[column.type].format(column.stored)} AS {column.name}"

    def none(self, column: Column) -> str:
        return f"{self.nothing[column.type]} AS {column.name}"

    def runs(self, slot: str | None) -> str:
        used = [self.shown(column) if slot else self.none(column) for column in USED]
        join = f"LEFT JOIN usage_runs_{slot} u ON u.run_id = r.run_id" if slot else ""
        return f"SELECT {', '.join([*map(self.shown, RUNS), *used])} FROM runs r {join}"

    def usage(self, slot: str | None) -> str:
        if slot:
            return f"SELECT {', '.join(map(self.shown, USAGE))} FROM usage_{slot} t"
        return f"SELECT {', '.join(map(self.none, USAGE))} FROM runs r WHERE 1 = 0"

    def events(self) -> str:
        text = self.text.format("e.data")
        by, posted = self.posted(text)
        columns = [
            "e.position AS position",
            f"{self.run_id('e.run_id')} AS run_id",
            "e.run_id AS run_key",
            "e.seq AS seq",
            f"{self.types['text'].format('e.type')} AS type",
            f"{self.types['time'].format('e.at')} AS at",
            "e.at AS at_ms",
            f"{self.types['text'].format('r.user_id')} AS user_id",
            f"{self.types['text'].format('r.agent_name')} AS agent",
            f"CASE WHEN {CUSTOM} THEN {by} WHEN {SAYS_WHO} THEN {self.part.format(text, 'by')} END "
            "AS caused_by",
            f"{self.json.format(f'CASE WHEN {CUSTOM} THEN {posted} ELSE {text} END')} AS data",
        ]
        on = self.joined.format(self.run_id("e.run_id", of_reads=True))
        return f"SELECT {', '.join(columns)} FROM events e LEFT JOIN runs r ON {on}"

    def posted(self, text: str) -> tuple[str, str]:
        """The user who appended a custom event, and its data, which come last.

        They are cut out of the text: functions for JSON fail for deep data, or change what they read.
        """
        key = '"data":'
        at = self.found.format(text, key)
        head = self.concat([f"substr({text}, 1, {at} - 2)", "'}'"])
        rest = f"{self.length.format(text)} - {at} - {len(key)}"
        return self.part.format(head, "by"), f"substr({text}, {at} + {len(key)}, {rest})"

    def run_id(self, stored: str, *, of_reads: bool = False) -> str:
        """A run id as text. `of_reads`: of the run, if it is a stream of its reads, whose version is 8."""
        digits = self.hexed.format(stored)
        parts = [f"substr({digits}, {begin}, {length})" for begin, length in _PARTS]
        if of_reads:
            version = f"substr({digits}, 13, 1)"
            parts[2:3] = [f"CASE {version} WHEN '8' THEN '7' ELSE {version} END", f"substr({digits}, 14, 3)"]
        texts = [parts[0], "'-'", parts[1], "'-'", *parts[2:-2], "'-'", parts[-2], "'-'", parts[-1]]
        return self.concat(texts)

    def concat(self, texts: list[str]) -> str:
        return f"({' || '.join(texts)})"


_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))  # parts of a UUID: first digit, number


# No operator of PostgreSQL reads JSON with the character NUL: one event would end every query over its row.
# So U+FFFD stands for it. An even number of backslashes before `\u0000` belongs to other characters.
_NUL = r"'(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffd', 'g'"
_TEXT = (
    r"CASE WHEN position('\\u0000'::bytea IN {0}) > 0 "
    f"THEN regexp_replace(convert_from({{0}}, 'UTF8'), {_NUL}) ELSE convert_from({{0}}, 'UTF8') END"
)


class _Postgresql(_Sqlite):
    types: ClassVar[dict[Type, str]] = {
        "text": 'CAST({0} AS text) COLLATE "C"', "integer": "{0}::bigint",
        "cost": f"({{0}}::numeric / {NANO})",
        "date": "{0}::date", "key": "{0}", "time": "to_timestamp({0} / 1000.0)",
        "json": f"({_TEXT})::json",
    }  # fmt: skip
    nothing: ClassVar[dict[Type, str]] = {
        "text": 'CAST(NULL AS text) COLLATE "C"', "integer": "NULL::bigint",
        "cost": "NULL::numeric", "date": "NULL::date",
        "key": "NULL::bytea", "time": "NULL::timestamptz", "json": "NULL::json",
    }  # fmt: skip
    text = f"({_TEXT})"
    json = "({0})::json"
    part = "(({0})::json ->> '{1}')"
    found = "strpos({0}, '{1}')"
    joined = 'r.run_id = {0} COLLATE "C"'
    hexed = "encode({0}, 'hex')"


class _Mysql(_Sqlite):
    types: ClassVar[dict[Type, str]] = {
        "text": "CONVERT({0} USING utf8mb4)", "integer": "{0}", "key": "{0}",
        "cost": f"(CAST({{0}} AS DECIMAL(30, 9)) / {NANO})", "date": "CAST({0} AS DATE)",
        "time": "TIMESTAMPADD(MICROSECOND, {0} * 1000, TIMESTAMP'1970-01-01 00:00:00')",
        "json": "CONVERT({0} USING utf8mb4)",
    }  # fmt: skip
    nothing: ClassVar[dict[Type, str]] = {
        "text": "CAST(NULL AS CHAR(255))", "integer": "CAST(NULL AS SIGNED)", "key": "NULL",
        "cost": "CAST(NULL AS DECIMAL(38, 9))", "date": "CAST(NULL AS DATE)",
        "time": "CAST(NULL AS DATETIME)", "json": "CAST(NULL AS CHAR)",
    }  # fmt: skip
    text = "CONVERT({0} USING utf8mb4)"
    part = "JSON_UNQUOTE(JSON_EXTRACT({0}, '$.{1}'))"
    length = "CHAR_LENGTH({0})"
    joined = "r.run_id = CAST({0} AS BINARY)"
    hexed = "LOWER(HEX({0}))"

    def concat(self, texts: list[str]) -> str:
        return f"CONCAT({', '.join(texts)})"
