"""Refuses settings that name one file: log lines, for example, would end up in the database."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from runstore.core.errors import ConfigError
from runstore.settings import Settings
from runstore.settings.server import URLS

WRITTEN = ("log_file", "database_url")  # settings; files that are only read may be the same one
BESIDE_DATABASE = ("", "-wal", "-shm", "-journal", ".workers")  # endings of what SQLite and runstore write


def check_distinct(settings: Settings) -> None:
    """Check that each setting names a file of its own.

    Raises:
        ConfigError: two settings name one file, or a setting names a file that belongs to the database.
    """
    for (one, first), (other, second) in combinations(_files(settings), 2):
        if one != other and one in WRITTEN and not _is_device(first) and _is_same(first, second):
            raise ConfigError(
                f"{first} is also the file of {_shown(other)}: give each a file of its own", setting=one
            )


def _is_device(path: Path) -> bool:
    """Whether a path leads to what keeps nothing, such as /dev/null."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _files(settings: Settings) -> Iterator[tuple[str, Path]]:
    """The files that settings name, each with its setting; at first those that are written."""
    server = settings.server
    if server.log_file is not None:
        yield "log_file", Path(server.log_file)
    with suppress(ArgumentError, ValueError):  # the start reports an invalid URL
        url = make_url(server.database_url)
        if url.get_backend_name() == "sqlite" and url.database:
            for ending in BESIDE_DATABASE:
                yield "database_url", Path(url.database + ending)
    for name in URLS:
        if (file := getattr(server, f"{name}_file")) is not None:
            yield f"{name}_file", Path(file)
    if settings.file is not None:
        yield "config", settings.file


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, or the first one into the other, a folder."""
    with suppress(OSError):  # one of them is not there yet
        if one.samefile(other):
            return True
    with suppress(OSError, RuntimeError):  # no working directory, or a circle of links: the start reports it
        return other.resolve() in (one.resolve(), *one.resolve().parents)
    return False


def _shown(setting: str) -> str:
    return "the configuration" if setting == "config" else f"`{setting}`"
