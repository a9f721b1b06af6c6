"""A Redis of a test's own. By default it keeps nothing over a restart, like many in production."""

import redis

from tests.servers.own import OwnServer
from tests.servers.owner import program

SETTINGS = {"bind": "127.0.0.1", "save": ""}


class OwnRedis(OwnServer):
    """Options are those of redis.conf, with `_` for `-`."""

    account = "redis"

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = SETTINGS | {name.replace("_", "-"): value for name, value in settings.items()}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self) -> "redis.Redis":
        """A client to flush, fill and inspect it."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def _installed(self) -> None:
        program("redis-server")

    def _command(self) -> list[str]:
        settings = {"port": str(self.port), "dir": str(self.folder), **self._settings}
        settings["set-proc-title"] = "no"  # a title overwrites the environment, by which the warden knows it
        options = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [program("redis-server"), *options]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:  # also while it loads what it has kept
            return False
