"""Column types that hold and compare the same values in the same way on every database.

MySQL's texts ignore case or trailing blanks, depending on the collation, and PostgreSQL's sort by the locale.
So names are stored as bytes there, or with the collation "C": two users are the same exactly if their names
are.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, LargeBinary, String, TypeDecorator
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.types import TypeEngine

MYSQL = ("mysql", "mariadb")  # SQLAlchemy's names of their dialects
UTF8_BYTES = 4  # bytes of the longest character


class UnstorableText(DontWrapMixin, ValueError):
    """The text of a name that no database can hold.

    Names from outside are checked before they arrive here.
    """


# SQLite counts by itself only with an INTEGER PRIMARY KEY.
Position = BigInteger().with_variant(Integer, "sqlite")


class Binary(TypeDecorator[bytes]):
    """A fixed number of bytes, or any number: MySQL's BLOB ends at 64 KiB."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name not in MYSQL:
            return dialect.type_descriptor(LargeBinary(self.length))
        mysql = _mysql()
        return dialect.type_descriptor(mysql.BINARY(self.length) if self.length else mysql.LONGBLOB())

    def bind_processor(self, dialect: Dialect) -> None:
        """The drivers take bytes as they are; SQLAlchemy would put each value in an object of the driver."""


class Name(TypeDecorator[str]):
    """A short text that is compared exactly, and sorted by its code points."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in MYSQL:
            return dialect.type_descriptor(_mysql().VARBINARY(UTF8_BYTES * self.length))
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(String(self.length, collation=collation))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        if value is None:
            return value
        try:
            encoded = value.encode()
        except UnicodeEncodeError as error:
            raise UnstorableText("a name must be text that is UTF-8") from error
        if b"\0" in encoded:
            raise UnstorableText("a name must not hold the character NUL")
        return encoded if dialect.name in MYSQL else value

    @staticmethod
    def takes_as_they_are(values: Iterable[str | None], dialect: Dialect) -> bool:
        """Whether the driver takes all these values without `process_bind_param`."""
        if dialect.name in MYSQL:
            return False
        text = "".join(filter(None, values))
        return text.isascii() and "\0" not in text

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


class RunId(TypeDecorator[str]):
    """A run's id: text in Python, 16 bytes in the database."""

    impl = Binary(16)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else pack_run_id(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else unpack_run_id(value)


def _mysql() -> Any:
    from sqlalchemy.dialects import mysql  # here, as its import takes time that most starts need not spend

    return mysql


def pack_run_id(run_id: str) -> bytes:
    return bytes.fromhex(run_id.replace("-", ""))


def unpack_run_id(value: bytes) -> str:
    digits = value.hex()  # a third of the time that UUID takes: each event that is read has a run id
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
