"""`[server]`: how a process serves and runs agents."""

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from runstore.core.errors import ConfigError
from runstore.logs import LogFormat
from runstore.runtime.user_code import REFERENCE
from runstore.settings.text import read_text

URLS = ("database_url", "database_read_url", "redis_url")  # settings that may be in files of their own
LOOPBACK = ("127.0.0.1", "localhost", "::1")

REDIS_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?|\*")


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[server]`: settings of serving and running. Durations are in seconds."""

    host: str = "127.0.0.1"
    port: int = 8082
    database_url: str = "sqlite:///runstore.db"
    # File with the URL, which keeps its password out of the configuration.
    database_url_file: str | None = None
    database_read_url: str | None = None  # a read replica, for searches, audits, replays and projections
    database_read_url_file: str | None = None  # file with `database_read_url`
    redis_url_file: str | None = None  # file with `redis_url`
    shared_files: bool = False  # whether other users may open the files of the database and the URLs
    redis_url: str | None = None  # wakes readers and workers of other processes at once
    redis_prefix: str = "runstore"  # prefix of all keys in Redis
    worker: bool = True  # whether the serving process also runs agents
    projections: bool = True  # whether the process keeps asynchronous projections up to date
    console: bool = True  # whether to serve the console, at /console/
    lease_s: float = 15.0  # silence after which a worker on another machine loses its runs
    agent_processes: int = 0  # processes that agents share; 0: they are at work in this process
    capacity: int = 1_000  # concurrent runs of this process; more wait as `queued`
    cancel_grace_s: float = 2.0  # seconds from a cancel's commit to the run's ending, even of a stuck agent
    max_abandoned_threads: int = 100  # threads held by stuck agents before `/readyz` fails
    drain_s: float = 2.0  # on SIGTERM: time for active runs before they are handed over
    heartbeat_s: float = 15.0  # between two heartbeats on an idle stream
    authenticate: str | None = None  # package.module:function, for logins other than API keys
    allowed_hosts: list[str] = []  # host names by which a proxy or a network knows this server
    cors_origins: list[str] = []  # origins whose pages may read the answers in a browser
    log_format: LogFormat = "logfmt"
    log_file: str | None = None  # file for log lines, in addition to standard error

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach the server."""
        return self.host not in LOOPBACK

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65_535),
            ("lease_s", 1, 3_600),
            ("agent_processes", 0, 256),
            ("capacity", 1, 100_000),
            ("cancel_grace_s", 0.1, 3_600),
            ("max_abandoned_threads", 0, 100_000),
            ("drain_s", 0, 3_600),
            ("heartbeat_s", 0.1, 15),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` must be from {low} to {high}, not {getattr(self, name)}")
        if not REDIS_PREFIX.fullmatch(self.redis_prefix):
            raise ValueError("`redis_prefix` must be 1 to 64 letters, digits, '_', '.', '-' or ':'")
        if self.authenticate is not None and not REFERENCE.fullmatch(self.authenticate):
            raise ValueError("`authenticate` must be of the form 'package.module:function'")
        _check_each("allowed_hosts", self.allowed_hosts, HOST, "a name without scheme and port")
        _check_each("cors_origins", self.cors_origins, ORIGIN, "an origin as https://example.com, or '*'")


def _check_each(name: str, values: list[str], form: re.Pattern[str], rule: str) -> None:
    for value in values:
        if not form.fullmatch(value):
            raise ValueError(f"`{name}`: {value!r} must be {rule}")


def override(settings: ServerSettings, changes: dict[str, Any]) -> ServerSettings:
    """The settings with changes from the command line or the environment.

    Raises:
        ConfigError: a value is out of bounds.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    for name in URLS:
        if name in given:  # it overrides a file
            given[f"{name}_file"] = None
    try:
        changed = msgspec.convert(msgspec.to_builtins(settings) | given, ServerSettings)
        return with_urls(changed, Path())
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).removesuffix(" - at `$`")) from error


def with_urls(settings: ServerSettings, folder: Path) -> ServerSettings:
    """The settings with the URLs read from files. `folder`: base of relative paths.

    Raises:
        ConfigError: a file cannot be read, or is not one line.
    """
    for name in URLS:
        if (file := getattr(settings, f"{name}_file")) is not None:
            path = folder / file
            settings = replace(
                settings, **{name: _read_line(path, f"{name}_file"), f"{name}_file": str(path)}
            )
    return settings


def _read_line(path: Path, setting: str) -> str:
    try:
        text = read_text(path).strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", setting=setting) from error
    if not text or "\n" in text:
        raise ConfigError(f"{path}: must hold one line, the URL", setting=setting)
    return text
