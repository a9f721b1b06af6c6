"""Acts after a statement that the product sends to a database, in its thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event


@contextmanager
def after_statement(beginning: str, act: Callable[[Connection, Any], None]) -> Iterator[None]:
    """Call `act` with the connection and the driver's cursor after each statement that begins so."""

    def look(connection: Connection, cursor: Any, statement: str, *_: object) -> None:
        if statement.lstrip().startswith(beginning):
            act(connection, cursor)

    event.listen(Engine, "after_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "after_cursor_execute", look)
