"""Refuses files that other users of the machine own, or can open or replace.

Files that runstore creates belong to the owner alone.
"""

from collections.abc import Mapping

import structlog

from runstore.core.errors import ConfigError
from runstore.database.dialects import Dialect
from runstore.database.dialects.files import folder_remedies, remedies

log = structlog.get_logger(__name__)


def check_files(
    dialect: Dialect, url_files: Mapping[str, str | None], *, shared: bool, runs_code: bool = False
) -> None:
    """Check the files of a database, and those that hold the URLs of a configuration.

    Args:
        url_files: file that holds a URL, by the setting of the URL.
        shared: log the files that others can open, instead of refusing them.
        runs_code: submitted code runs on this machine, as another user, so that no database is shared.

    Raises:
        ConfigError: others can open a file, or replace it; the message has the remedy.
    """
    opened = [
        (f"{name}_file", path, "; ".join(found))
        for name, path in url_files.items()
        if path and (found := [*remedies(path, path, 600), *folder_remedies(path)])
    ]
    if remedy := dialect.exposed():
        if runs_code:
            raise ConfigError(
                f"database {dialect.location}: submitted code runs as another user, who can open or replace "
                f"it: {remedy}",
                setting="code",
            )
        opened.append(("database_url", f"database {dialect.location}", remedy))
    for setting, what, remedy in opened:
        if not shared:
            raise ConfigError(
                f"{what}: other users of the machine can open or replace it: {remedy}; run as its owner or, "
                "where owners and modes cannot be changed, set shared_files = true",
                setting=setting,
            )
        log.warning("database_open_to_others", remedy=remedy)
