"""Full-text queries, as people type them."""

from typing import Self

from msgspec import Struct
from sqlalchemy import ColumnElement, Table, Text, and_, func, literal_column, type_coerce

from runstore.core.errors import InvalidQuery
from runstore.core.run_text import words_of
from runstore.database.columns import MYSQL
from runstore.projections.text_index import has_all, has_all_on_sqlite, mysql_word

MAX_QUERY_WORDS = 32  # words of one query
MAX_QUERY = 1_000  # characters of one query


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
        for index, part in enumerate(asked.split('"')):
            quoted = index % 2 == 1
            for piece in [part] if quoted else part.split():
                if words := tuple(words_of(piece)):
                    phrases.append(words)
        count = sum(map(len, phrases))
        if not phrases:
            raise InvalidQuery("the text to find must have a letter or digit")
        if count > MAX_QUERY_WORDS:
            raise InvalidQuery(f"the text to find must have at most {MAX_QUERY_WORDS} words, not {count}")
        return cls(tuple(dict.fromkeys(phrases)))

    def matches(
        self, table: Table, dialect: str, *, newest: int | None = None, before: int | None = None
    ) -> ColumnElement[bool]:
        """The condition on the table of a slot.

        Args:
            newest: the number of newest matches that are wanted; only if nothing else filters them.
            before: only matches before this position are wanted. Both are hints, which SQLite takes.
        """
        words = list(dict.fromkeys(word for phrase in self.phrases for word in phrase))
        blanks: ColumnElement[str] = literal_column("' '", Text)
        padded = type_coerce(func.concat(blanks, table.c.words, blanks), Text)
        if dialect == "sqlite":
            padded = type_coerce(blanks.op("||")(table.c.words).op("||")(blanks), Text)
        coded = [[mysql_word(word) for word in phrase] for phrase in self.phrases]
        joined = coded if dialect in MYSQL else self.phrases
        in_order = [padded.like(f"% {' '.join(phrase)} %") for phrase in joined if len(phrase) > 1]
        if dialect == "sqlite":
            return and_(has_all_on_sqlite(table, words, None if in_order else newest, before), *in_order)
        return and_(has_all(table, dialect, words), *in_order)
