"""The index for full text, whose form differs between databases.

A table is indexed by its column `words`. Its key is `position`, and its name ends with the slot.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    DDL,
    Boolean,
    ColumnElement,
    Connection,
    Dialect,
    Index,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    event,
    func,
    literal_column,
    text,
    type_coerce,
)
from sqlalchemy.types import TypeEngine
from typing_extensions import override

from runstore.database.columns import MYSQL
from runstore.database.database import Database
from runstore.database.expressions import spelled

SEGMENTS = 8  # segments of a level that SQLite's index merges; its default of 4 makes inserts slower
MERGED_PAGES = 200  # pages of SQLite's index that one transaction merges, which takes some milliseconds


class IndexedWords(TypeDecorator[str]):
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


def add_index(table: Table) -> None:
    """Give the table of a slot its index for full text."""
    name = table.name
    words = words_table(table)
    vector = func.array_to_tsvector(func.string_to_array(table.c.words, text("' '")))
    Index(f"ix_{words}", vector, postgresql_using="gin").ddl_if(dialect="postgresql")
    for dialect in MYSQL:
        kind: dict[str, Any] = {f"{dialect}_prefix": "FULLTEXT"}
        Index(f"ix_{words}_{dialect}", table.c.words, **kind).ddl_if(dialect=dialect)
    ran = (
        f"CREATE VIRTUAL TABLE {words} USING fts5("
        f"words, content='{name}', content_rowid='position', tokenize='ascii', detail='none', columnsize=0)",
        f"INSERT INTO {words} ({words}, rank) VALUES ('automerge', {SEGMENTS})",
        f"CREATE TRIGGER {words}_gone AFTER DELETE ON {name} BEGIN "
        f"INSERT INTO {words} ({words}, rowid, words) VALUES ('delete', old.position, old.words); END",
    )
    for statement in ran:
        event.listen(table, "after_create", _on_sqlite(statement))
    event.listen(table, "after_drop", _on_sqlite(f"DROP TABLE IF EXISTS {words}"))


def words_table(table: Table) -> str:
    """The name of FTS5's table."""
    name, _, slot = table.name.rpartition("_")
    return f"{name}_words_{slot}"


def fill_index(connection: Connection, table: Table, first: int) -> None:
    """Add rows to FTS5's table, from a position on: earlier ones are there. Servers index rows themselves."""
    if connection.dialect.name != "sqlite":  # where a trigger would take four times as long
        return
    added = f"SELECT position, words FROM {table.name} WHERE position >= :first"
    connection.execute(text(f"INSERT INTO {words_table(table)} (rowid, words) {added}"), {"first": first})


def merge_index(database: Database, table: Table) -> None:
    """Let SQLite's index forget the words of deleted rows: it keeps them until it merges its segments.

    This merges all of them, in short transactions. Servers forget by themselves.
    """
    if database.dialect.name != "sqlite":
        return
    fts = words_table(table)
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


def has_all(
    table: Table, words: Sequence[str], *, newest: int | None = None, before: int | None = None
) -> ColumnElement[bool]:
    """All words are in a row. They hold letters and digits only, so none is syntax.

    Args:
        newest: the number of newest matches that are wanted.
        before: only matches before this position are wanted. Both are hints: FTS5 walks through its matches
            from the newest on, and can stop there.
    """
    fts = words_table(table)
    matching = f"SELECT rowid FROM {fts} WHERE {fts} MATCH :asked"
    hints: dict[str, int] = {}
    if before is not None:
        matching, hints["before"] = f"{matching} AND rowid < :before", before
    if newest is not None:
        matching, hints["newest"] = f"{matching} ORDER BY rowid DESC LIMIT :newest", newest
    return spelled(
        _condition(
            f"array_to_tsvector(string_to_array({table.name}.words, ' ')) @@ CAST(:asked AS tsquery)",
            asked=" & ".join(f"'{word}'" for word in words),
        ),
        sqlite=_condition(
            f"{table.name}.position IN ({matching})",
            asked=" AND ".join(f'"{word}"' for word in words),
            **hints,
        ),
        mysql=_condition(
            f"MATCH ({table.name}.words) AGAINST (:asked IN BOOLEAN MODE)",
            asked=" ".join(f"+{_mysql_word(word)}" for word in words),
        ),
    )


def has_phrase(table: Table, words: Sequence[str]) -> ColumnElement[bool]:
    """These words follow each other in a row."""
    blank: ColumnElement[str] = literal_column("' '", Text)
    padded = type_coerce(blank.concat(table.c.words).concat(blank), Text)
    coded = " ".join(map(_mysql_word, words))
    return spelled(padded.like(f"% {' '.join(words)} %"), mysql=padded.like(f"% {coded} %"))


def _condition(sql: str, **values: Any) -> ColumnElement[bool]:
    binds: list[Any] = [bindparam(name, value, unique=True) for name, value in values.items()]
    return type_coerce(text(sql).bindparams(*binds), Boolean)
