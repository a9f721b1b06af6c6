"""Full-text search over inputs, answers and tool calls.

Each event with text is one row. `words` holds its words as `words_of` cuts them, so that every database finds
the same: SQLite by FTS5, PostgreSQL by a tsvector with a GIN index, MariaDB and MySQL by FULLTEXT. The text
itself stays in the log.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import msgspec
from msgspec import Struct
from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Index,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    and_,
    bindparam,
    delete,
    event,
    func,
    insert,
    literal_column,
    select,
    text,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from runstore.core.codec import RecordedEvent
from runstore.core.depth import decoded
from runstore.core.errors import InvalidQuery
from runstore.core.events import (
    Completed,
    Discarded,
    EventType,
    Message,
    Purged,
    Queued,
    ToolFailed,
    ToolFinished,
    ToolStarted,
)
from runstore.core.ports import EventFilter
from runstore.core.run_text import input_text, value_text, words_of
from runstore.core.transcript import message_text
from runstore.core.usage import bounded
from runstore.database.columns import MYSQL, Binary, Name
from runstore.database.opening import Database
from runstore.projections.builds import live_tables
from runstore.projections.projection import Projection, Slot

READ_AT_ONCE = 500  # runs of one statement
MERGED_PAGES = 200  # pages of SQLite's index that one transaction merges, which takes some milliseconds
MAX_QUERY_WORDS = 32  # words of one query
MAX_QUERY = 1_000  # characters of one query
INPUT, ANSWER, TOOL = "input", "answer", "tool"  # kinds of text
REDACTED = "redacted"  # reason of a discard after which the log no longer has the text


class Words(TypeDecorator[str]):
    """Words with blanks between. They are coded on MySQL, whose index ignores short and frequent words."""

    impl = Text
    cache_ok = True

    @override
    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in MYSQL:
            from sqlalchemy.dialects import mysql

            return dialect.type_descriptor(mysql.LONGTEXT(charset="ascii", collation="ascii_bin"))
        return dialect.type_descriptor(Text())

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or dialect.name not in MYSQL:
            return value
        return " ".join([_mysql_word(word) for word in value.split(" ") if word])


def _mysql_word(word: str) -> str:
    """A word that MySQL indexes with any settings: long enough, and in ASCII."""
    return f"zz{word}" if word.isascii() else f"zy{word.encode().hex()}"


_tables = MetaData()

TEXT = Table(
    "text",
    _tables,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("run_id", Name(36), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Name(8), nullable=False),
    Column("agent", Name(255), nullable=False),
    Column("speaker", Binary(16), nullable=False),
    Column("words", Words, nullable=False),
    Index("ix_text_run_id", "run_id", "seq"),
)


class TextProjection(Projection):
    """The projection `text`."""

    name: ClassVar[str] = "text"
    reads: ClassVar[EventFilter | None] = EventFilter(
        types=frozenset(
            {
                Queued.type, Message.type, Completed.type, ToolStarted.type, ToolFinished.type,
                ToolFailed.type, Discarded.type, Purged.type,
            }
        )
    )  # fmt: skip
    tables: Sequence[Table] = (TEXT,)

    @override
    def on(self, slot: Slot) -> Self:
        bound = super().on(slot)
        _index(bound.tables[0])
        return bound

    @override
    def apply(self, connection: Connection, events: Sequence[RecordedEvent]) -> None:
        (table,) = self.tables
        new: dict[int, dict[str, Any]] = {}  # position → row
        ended: list[RecordedEvent] = []
        for each in events:
            match each.type:
                case Discarded.type:
                    discarded = decoded(_read_discarded, each.data)
                    if discarded.reason == REDACTED:
                        _redact(connection, table, new, each, discarded)
                case Purged.type:
                    connection.execute(delete(table).where(table.c.run_id == each.run_id))
                    new = {p: row for p, row in new.items() if row["run_id"] != each.run_id}
                    ended = [earlier for earlier in ended if earlier.run_id != each.run_id]
                case Completed.type:
                    ended.append(each)
                case _:
                    if (row := _row(each)) is not None:
                        new[each.position] = row
        answered = {row["run_id"] for row in new.values() if row["kind"] == ANSWER}
        answered |= _answered(connection, table, [e.run_id for e in ended if e.run_id not in answered])
        for each in ended:
            # A strands agent's result is its last message; other agents have nothing but the result.
            if each.run_id not in answered and (row := _result_row(each)) is not None:
                new[each.position] = row
        if new:
            connection.execute(insert(table), [new[position] for position in sorted(new)])
            if connection.dialect.name == "sqlite":  # a trigger would take four times as long
                _fill_index(connection, table, min(new))


class _Queued(Struct, frozen=True):
    agent: str
    input: Any = None


class _Message(Struct, frozen=True):
    agent: str
    message: dict[str, Any]
    call_id: str | None = None


class _Tool(Struct, frozen=True):
    agent: str
    name: str
    call_id: str | None = None
    input: Any = None
    output: Any = None


class _Completed(Struct, frozen=True):
    result: dict[str, Any]


class _Discarded(Struct, frozen=True):
    agent: str
    reason: str
    from_seq: int = 0
    call_id: str | None = None


_read_queued = msgspec.json.Decoder(_Queued).decode
_read_message = msgspec.json.Decoder(_Message).decode
_read_tool = msgspec.json.Decoder(_Tool).decode
_read_completed = msgspec.json.Decoder(_Completed).decode
_read_discarded = msgspec.json.Decoder(_Discarded).decode


def text_of(type: EventType, data: bytes) -> str:
    """The text of an event that is searched."""
    match type:
        case Queued.type:
            return input_text(decoded(_read_queued, data).input)
        case Message.type:
            return _answer(decoded(_read_message, data).message)
        case Completed.type:
            return value_text(decoded(_read_completed, data).result.get("text"))
        case ToolStarted.type | ToolFinished.type | ToolFailed.type:
            return _called(decoded(_read_tool, data), named=type == ToolStarted.type)
    return ""


def _row(each: RecordedEvent) -> dict[str, Any] | None:
    match each.type:
        case Queued.type:
            queued = decoded(_read_queued, each.data)
            return _made(each, INPUT, queued.agent, None, input_text(queued.input))
        case Message.type:
            said = decoded(_read_message, each.data)
            return _made(each, ANSWER, said.agent, said.call_id, _answer(said.message))
        case ToolStarted.type | ToolFinished.type | ToolFailed.type:
            called = decoded(_read_tool, each.data)
            text = _called(called, named=each.type == ToolStarted.type)
            return _made(each, TOOL, called.agent, called.call_id, text)
    return None


def _result_row(each: RecordedEvent) -> dict[str, Any] | None:
    return _made(each, ANSWER, "", None, text_of(each.type, each.data))


def _made(
    each: RecordedEvent, kind: str, agent: str, call_id: str | None, said: str
) -> dict[str, Any] | None:
    words = words_of(said)
    if not words:
        return None
    return {
        "position": each.position, "run_id": each.run_id, "seq": each.seq, "kind": kind,
        "agent": bounded(agent, 255), "speaker": _speaker(agent, call_id), "words": " ".join(words),
    }  # fmt: skip


def _answer(message: dict[str, Any]) -> str:
    if message.get("role") != "assistant":
        return ""
    try:
        return message_text(message)
    except (TypeError, KeyError, AttributeError):  # a producer of its own wrote it
        return ""


def _called(call: _Tool, *, named: bool) -> str:
    name = f"{call.name} " if named else ""
    return name + value_text(call.input) + value_text(call.output)


def _speaker(agent: str, call_id: str | None) -> bytes:
    """An agent at a call, as short as any: a call's id may be long."""
    return hashlib.blake2b(msgspec.json.encode([agent, call_id]), digest_size=16).digest()


def _redact(
    connection: Connection,
    table: Table,
    new: dict[int, dict[str, Any]],
    each: RecordedEvent,
    discarded: _Discarded,
) -> None:
    """Remove the answers that the log has replaced by tombstones."""
    speaker = _speaker(discarded.agent, discarded.call_id)
    for position, row in list(new.items()):
        if (
            row["run_id"] == each.run_id and row["kind"] == ANSWER and row["speaker"] == speaker
            and discarded.from_seq <= row["seq"] < each.seq
        ):  # fmt: skip
            del new[position]
    of_it = (table.c.run_id == each.run_id, table.c.kind == ANSWER, table.c.speaker == speaker)
    connection.execute(delete(table).where(*of_it, table.c.seq >= discarded.from_seq, table.c.seq < each.seq))


def _answered(connection: Connection, table: Table, run_ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(run_ids), READ_AT_ONCE):
        wanted = table.c.run_id.in_(run_ids[start : start + READ_AT_ONCE])
        found |= set(
            connection.execute(select(table.c.run_id).where(wanted, table.c.kind == ANSWER)).scalars()
        )
    return found


# ---- what differs between databases ----


def _index(table: Table) -> None:
    """Give the table of a slot its index for full text."""
    name = table.name
    words = _words_of(table)
    vector = func.array_to_tsvector(func.string_to_array(table.c.words, text("' '")))
    Index(f"ix_{words}", vector, postgresql_using="gin").ddl_if(dialect="postgresql")
    for dialect in MYSQL:
        kind: dict[str, Any] = {f"{dialect}_prefix": "FULLTEXT"}
        Index(f"ix_{words}_{dialect}", table.c.words, **kind).ddl_if(dialect=dialect)
    ran = (
        f"CREATE VIRTUAL TABLE {words} USING fts5("
        f"words, content='{name}', content_rowid='position', tokenize='ascii', detail='none')",
        f"CREATE TRIGGER {words}_gone AFTER DELETE ON {name} BEGIN "
        f"INSERT INTO {words} ({words}, rowid, words) VALUES ('delete', old.position, old.words); END",
    )
    for statement in ran:
        event.listen(table, "after_create", _on_sqlite(statement))
    event.listen(table, "after_drop", _on_sqlite(f"DROP TABLE IF EXISTS {words}"))


def _words_of(table: Table) -> str:
    """The name of FTS5's table."""
    name, _, slot = table.name.rpartition("_")
    return f"{name}_words_{slot}"


def _fill_index(connection: Connection, table: Table, first: int) -> None:
    """Add rows to FTS5's table, from a position on: earlier ones are there."""
    added = f"SELECT position, words FROM {table.name} WHERE position >= :first"
    connection.execute(text(f"INSERT INTO {_words_of(table)} (rowid, words) {added}"), {"first": first})


def compact_words(database: Database, projection: Projection) -> None:
    """Let SQLite's index forget the words of deleted rows: it keeps them until it merges its segments."""
    with database.connect() as connection:
        tables = live_tables(connection, projection) if connection.dialect.name == "sqlite" else None
    if tables is None:
        return
    fts = _words_of(tables[TEXT.name])
    merge = f"INSERT INTO {fts} ({fts}, rank) VALUES ('merge', -{MERGED_PAGES})"
    changes = text("SELECT total_changes()")
    going_on = True
    while going_on:
        with database.changing(derived=True) as connection:
            before = connection.execute(changes).scalar_one()
            connection.execute(text(merge))
            # From SQLite's documentation of FTS5, "The 'merge' command": a smaller difference is the end.
            going_on = connection.execute(changes).scalar_one() - before >= 2


def _on_sqlite(statement: str) -> Any:
    ddl: Any = DDL
    return ddl(statement).execute_if(dialect="sqlite")


class TextQuery(Struct, frozen=True):
    """The phrases that one event must hold; a single word is a phrase of one."""

    phrases: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, asked: str) -> Self:
        """Read plain words and "phrases"; nothing else has a meaning.

        Raises:
            InvalidQuery: it is too long, or has no words.
        """
        if len(asked) > MAX_QUERY:
            raise InvalidQuery(
                f"the text to find must have at most {MAX_QUERY:,} characters, not {len(asked):,}"
            )
        phrases: list[tuple[str, ...]] = []
        for place, part in enumerate(asked.split('"')):
            quoted = place % 2 == 1
            for piece in [part] if quoted else part.split():
                if words := tuple(words_of(piece)):
                    phrases.append(words)
        count = sum(map(len, phrases))
        if not phrases:
            raise InvalidQuery("the text to find must have a letter or digit")
        if count > MAX_QUERY_WORDS:
            raise InvalidQuery(f"the text to find must have at most {MAX_QUERY_WORDS} words, not {count}")
        return cls(tuple(dict.fromkeys(phrases)))

    def matches(self, table: Table, dialect: str) -> ColumnElement[bool]:
        """The condition on the table of a slot."""
        words = list(dict.fromkeys(word for phrase in self.phrases for word in phrase))
        blanks: ColumnElement[str] = literal_column("' '", Text)
        padded = type_coerce(func.concat(blanks, table.c.words, blanks), Text)
        if dialect == "sqlite":
            padded = type_coerce(blanks.op("||")(table.c.words).op("||")(blanks), Text)
        coded = [[_mysql_word(word) for word in phrase] for phrase in self.phrases]
        joined = coded if dialect in MYSQL else self.phrases
        in_order = [padded.like(f"% {' '.join(phrase)} %") for phrase in joined if len(phrase) > 1]
        return and_(_has_all(table, dialect, words), *in_order)


def _has_all(table: Table, dialect: str, words: Iterable[str]) -> ColumnElement[bool]:
    """All words are in a row. They hold letters and digits only, so none is syntax."""
    if dialect in MYSQL:
        asked = " ".join(f"+{_mysql_word(word)}" for word in words)
        against = text(f"MATCH ({table.name}.words) AGAINST (:asked IN BOOLEAN MODE)")
        return type_coerce(against.bindparams(bindparam("asked", asked, unique=True)), Boolean)
    if dialect == "postgresql":
        vector = func.array_to_tsvector(func.string_to_array(table.c.words, text("' '")), type_=TSVECTOR)
        asked = " & ".join(f"'{word}'" for word in words)
        return vector.op("@@")(type_coerce(asked, Text).cast(TSQUERY))
    fts = _words_of(table)
    asked = " AND ".join(f'"{word}"' for word in words)
    inner = text(f"SELECT rowid FROM {fts} WHERE {fts} MATCH :asked")
    return table.c.position.in_(inner.bindparams(bindparam("asked", asked, unique=True)))
