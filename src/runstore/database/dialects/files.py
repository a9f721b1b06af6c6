"""Access to a file and its folder, by their modes."""

import grp
import pwd
import stat
from pathlib import Path


def is_open_to_others(path: Path | str) -> bool:
    """Whether the mode gives others than the owner any right; False if it cannot be found."""
    try:
        return bool(Path(path).stat().st_mode & 0o077)
    except OSError:
        return False


def is_open_beyond_group(path: Path | str) -> bool:
    """Whether others than the owner and a reading group have any right; False if it cannot be found.

    Many services read a configuration of root's through their group, with mode 0640.
    """
    try:
        return bool(Path(path).stat().st_mode & 0o027)
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
    try:
        group, user = grp.getgrgid(group_id), pwd.getpwuid(user_id)
    except KeyError:
        return False
    return user.pw_gid == group_id and group.gr_name == user.pw_name and not group.gr_mem
