"""Warns of a configuration file that holds passwords or keys and is open to all users of the machine.

It does not refuse them: a configuration is often mounted read-only, with a mode that cannot be changed.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import structlog

from runstore.core.definitions import HARMLESS
from runstore.core.masking import without_keys
from runstore.database.dialects.files import configuration_remedies
from runstore.settings.server import URLS
from runstore.settings.settings import Settings

log = structlog.get_logger(__name__)


def warn_of_open_secrets(settings: Settings) -> None:
    """Log a warning if other users can open or own a configuration file that holds a password or a key."""
    if not settings.secrets or settings.file is None:
        return
    if remedy := "; ".join(configuration_remedies(settings.file)):
        log.warning(
            "configuration_open_to_others",
            file=str(settings.file),
            settings=", ".join(settings.secrets),
            remedy=remedy,
        )


def find_secrets(tables: Mapping[str, Any]) -> Iterator[str]:
    """The names of the settings in a configuration's checked tables that hold a password or a key."""
    server = tables.get("server", {})
    yield from (f"server.{name}" for name in URLS if _has_password(server.get(name, "")))
    hierarchies = tables.get("hierarchies", {})
    for section, models in (
        ("agents", tables.get("agents", {})),
        ("hierarchies.models", hierarchies.get("models", {})),
    ):
        for name, model in models.items():
            yield from _keys(f"{section}.{name}.model_args", model.get("model_args", {}))


def _has_password(url: str) -> bool:
    """Whether a URL has a password, or an option such as `sslpassword`. A user name is not a secret."""
    try:
        split = urlsplit(url)
    except ValueError:
        return without_keys(url) != url
    return bool(split.password) or without_keys(split.query) != split.query


def _keys(name: str, value: Any) -> Iterator[str]:
    """The arguments of a model that look like a key by their name or their form."""
    if isinstance(value, dict):
        for field, item in value.items():
            if field not in HARMLESS:
                yield from _keys(f"{name}.{field}", item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(name, item)
    elif isinstance(value, str):
        text = f"{name.rpartition('.')[2]}: {value}"
        if without_keys(text) != text:
            yield name
