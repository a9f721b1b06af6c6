"""Full-text search over inputs, answers and tool calls.

Each event with text is one row. `words` holds its words as `words_of` cuts them, so that every database finds
the same: SQLite by FTS5, PostgreSQL by a tsvector with a GIN index, MariaDB and MySQL by FULLTEXT. The text
itself stays in the log.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Self

import msgspec
from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    MetaData,
    Table,
    delete,
    select,
)
from typing_extensions import override

from runstore.core.codec import RecordedEvent
from runstore.core.depth import decoded
from runstore.core.events import (
    Cancelled,
    Completed,
    Discarded,
    EventType,
    Failed,
    Message,
    Purged,
    Queued,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    WithheldText,
)
from runstore.core.folds.run_text import input_text, value_text, words_of
from runstore.core.folds.transcript import message_text
from runstore.core.ports import EventFilter
from runstore.core.usage import bounded
from runstore.database.columns import Binary, Name, Position
from runstore.database.database import Database
from runstore.database.full_text import IndexedWords, add_index, fill_index, merge_index
from runstore.database.keys import rows_with
from runstore.database.upserts import insert_rows
from runstore.projections.live import live_tables
from runstore.projections.projection import Projection, Slot

KEPT_SPEAKERS = 256  # speakers of the last rows to remember
INPUT, ANSWER, TOOL = "input", "answer", "tool"  # kinds of text
REDACTED = "redacted"  # reason of a discard after which the log no longer has the text


_tables = MetaData()

TEXT = Table(
    "text",
    _tables,
    Column("position", Position, primary_key=True, autoincrement=False),  # SQLite's row id
    Column("run_id", Name(36), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", Name(8), nullable=False),
    Column("agent", Name(255), nullable=False),
    Column("speaker", Binary(16), nullable=False),
    Column("words", IndexedWords, nullable=False),
    Index("ix_text_run_id", "run_id", "seq"),
)


class TextProjection(Projection):
    """The projection `text`."""

    name: ClassVar[str] = "text"
    reads: ClassVar[EventFilter | None] = EventFilter(
        types=frozenset(
            {
                Queued.type, Message.type, Completed.type, ToolStarted.type, ToolFinished.type,
                ToolFailed.type, Discarded.type, Failed.type, Cancelled.type, Purged.type,
            }
        )
    )  # fmt: skip
    tables: Sequence[Table] = (TEXT,)

    @override
    def on(self, slot: Slot) -> Self:
        bound = super().on(slot)
        add_index(bound.tables[0])
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
                case Failed.type | Cancelled.type:
                    for withheld in decoded(_read_ending, each.data).withheld:
                        _redact(connection, table, new, each, withheld)
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
            # A strands agent's result is its last message; other agents have only their result.
            if each.run_id not in answered and (row := _result_row(each)) is not None:
                new[each.position] = row
        if new:
            insert_rows(connection, table, [new[position] for position in sorted(new)])
            fill_index(connection, table, min(new))


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


class _Ending(Struct, frozen=True):
    withheld: list[WithheldText] = []


_read_queued = msgspec.json.Decoder(_Queued).decode
_read_message = msgspec.json.Decoder(_Message).decode
_read_tool = msgspec.json.Decoder(_Tool).decode
_read_completed = msgspec.json.Decoder(_Completed).decode
_read_discarded = msgspec.json.Decoder(_Discarded).decode
_read_ending = msgspec.json.Decoder(_Ending).decode


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
            message = decoded(_read_message, each.data)
            return _made(each, ANSWER, message.agent, message.call_id, _answer(message.message))
        case ToolStarted.type | ToolFinished.type | ToolFailed.type:
            called = decoded(_read_tool, each.data)
            text = _called(called, named=each.type == ToolStarted.type)
            return _made(each, TOOL, called.agent, called.call_id, text)
    return None


def _result_row(each: RecordedEvent) -> dict[str, Any] | None:
    return _made(each, ANSWER, "", None, text_of(each.type, each.data))


def _made(
    each: RecordedEvent, kind: str, agent: str, call_id: str | None, text: str
) -> dict[str, Any] | None:
    words = words_of(text)
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
    except (TypeError, KeyError, AttributeError):  # an external producer wrote it
        return ""


def _called(call: _Tool, *, named: bool) -> str:
    name = f"{call.name} " if named else ""
    return name + value_text(call.input) + value_text(call.output)


@lru_cache(KEPT_SPEAKERS)
def _speaker(agent: str, call_id: str | None) -> bytes:
    """A digest of an agent and its call, as the call's id may be long."""
    return hashlib.blake2b(msgspec.json.encode([agent, call_id]), digest_size=16).digest()


def _redact(
    connection: Connection,
    table: Table,
    new: dict[int, dict[str, Any]],
    each: RecordedEvent,
    discarded: _Discarded | WithheldText,
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
    answers = select(table.c.run_id).where(table.c.kind == ANSWER)
    return {row.run_id for row in rows_with(connection, answers, table.c.run_id, run_ids)}


def compact_words(database: Database, projection: Projection) -> None:
    """See `merge_index`."""
    with database.connect() as connection:
        tables = live_tables(connection, projection)
    if tables is not None:
        merge_index(database, tables[TEXT.name])
