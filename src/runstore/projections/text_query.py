"""Full-text queries, as people type them."""

from typing import Self

from msgspec import Struct
from sqlalchemy import ColumnElement, Table, and_

from runstore.core.errors import InvalidQuery
from runstore.core.folds.run_text import words_of
from runstore.database.full_text import has_all, has_phrase

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
        self, table: Table, *, newest: int | None = None, before: int | None = None
    ) -> ColumnElement[bool]:
        """The condition on the table of a slot.

        Args:
            newest: the number of newest matches that are wanted; only if nothing else filters them.
            before: only matches before this position are wanted. See `has_all` for both.
        """
        words = list(dict.fromkeys(word for phrase in self.phrases for word in phrase))
        in_order = [has_phrase(table, phrase) for phrase in self.phrases if len(phrase) > 1]
        return and_(has_all(table, words, newest=None if in_order else newest, before=before), *in_order)
