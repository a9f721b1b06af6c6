"""Access to a file and its folders, by their owners and modes."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

STATIC_IDS = 100  # Debian's /var/local is of group 50: directory services give their users no group below 100
UID_MAP = Path("/proc/self/uid_map")  # lines of: first id here, first id outside, number of ids
OVERFLOW_ID = Path("/proc/sys/kernel/overflowuid")


def remedies(path: Path | str, shown: str, mode: int) -> Iterator[str]:
    """The commands that close a file to other users, its owner among them.

    Args:
        shown: the file's name in the commands.
        mode: the file's mode in octal digits, for example 600.
    """
    yield from _owner_remedies(path, shown)
    if is_open_to_others(path):
        yield f"chmod {mode} {shown}"


def configuration_remedies(path: Path) -> Iterator[str]:
    """The commands that keep others than the owner and a reading group from a configuration.

    Many services read a configuration of root's through their group, with mode 0640.
    """
    yield from _owner_remedies(path, str(path))
    with suppress(OSError):
        if path.stat().st_mode & 0o027:
            yield f"chmod g-w,o= {path}"


def folder_remedies(path: Path | str) -> Iterator[str]:
    """The commands that keep other users from replacing a file through the folders above it.

    The owner of a folder can replace its files, and so can all users with the right to write there. The
    folders are those of the file's name and, if a part of the name is a link, those that it leads to. Root
    works in folders of other users: in a container they are those of the person who started it.
    """
    real = Path(os.path.realpath(path))
    for folder in dict.fromkeys((*Path(path).absolute().parents, *real.parents)):
        if os.geteuid() != 0:
            yield from _owner_remedies(folder, str(folder))
        with suppress(OSError):
            if is_writable_to_others(folder):
                yield f"chmod go-w {folder}"


def _owner_remedies(path: Path | str, shown: str) -> Iterator[str]:
    """How to take a file, or a link to it, from its owner: another user than this process's and root."""
    owners = set()
    for look in (os.lstat, os.stat):
        with suppress(OSError):
            owners.add(look(path).st_uid)
    if not owners <= {0, os.geteuid(), *_foreign_ids()}:
        yield f"chown {_name(os.geteuid())} {shown}"


def _foreign_ids() -> Iterator[int]:
    """The id that stands for all users outside of this process's user namespace (user_namespaces(7)).

    There is none if the namespace has a user of its own with that id.
    """
    with suppress(OSError, ValueError):
        foreign = int(OVERFLOW_ID.read_text())
        ranges = [map(int, line.split()) for line in UID_MAP.read_text().splitlines()]
        if not any(first <= foreign < first + count for first, _, count in ranges):
            yield foreign


def _name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def is_open_to_others(path: Path | str) -> bool:
    """Whether the mode gives others than the owner any right; False if it cannot be found."""
    try:
        return bool(Path(path).stat().st_mode & 0o077)
    except OSError:
        return False


def is_writable_to_others(folder: Path) -> bool:
    """Whether others than the owner may replace the files of a folder.

    In a sticky folder, such as /tmp, they may not. A group that has the owner as its only member counts as
    the owner: many systems make one for each user, and let it write.
    """
    status = folder.stat()
    if status.st_mode & stat.S_ISVTX:
        return False
    by_group = status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid, status.st_uid)
    return bool(by_group or status.st_mode & stat.S_IWOTH)


def _is_private(group_id: int, user_id: int) -> bool:
    """Whether a group has no member but the user."""
    try:
        group, user = grp.getgrgid(group_id), pwd.getpwuid(user_id)
    except KeyError:
        return False
    if group.gr_mem:
        return False
    if group_id < STATIC_IDS:
        return all(entry.pw_uid in (0, user_id) for entry in pwd.getpwall() if entry.pw_gid == group_id)
    return user.pw_gid == group_id and group.gr_name == user.pw_name
