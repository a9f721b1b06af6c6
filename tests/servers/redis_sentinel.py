"""A primary and a replica of Redis, with a Sentinel that makes the replica the primary if that is lost."""

import time
from contextlib import ExitStack
from typing import Self

import redis

from tests.servers.own import OwnServer
from tests.servers.redis import Maker, OwnRedis, program_of

SERVICE = "runs"
LOST_MS = 1_000  # without an answer, after which the primary counts as lost
READY_S = 60.0


class OwnSentinel(OwnServer):
    """Watches one primary, alone; it keeps its configuration over a restart.

    Args:
        password: that it asks for.
    """

    account = "redis"

    def __init__(self, primary_port: int, password: str = "", *, maker: Maker = "redis") -> None:
        self._maker = maker
        super().__init__()
        self._password = password
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            "set-proc-title no\n"  # see OwnRedis
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary_port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {LOST_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n" + (f"requirepass {password}\n" if password else "")
        )
        (self.folder / "sentinel.conf").chmod(0o666)  # it rewrites the file

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/{SERVICE}"

    def master(self) -> dict[str, str]:
        """Its data about the primary."""
        with redis.Redis(port=self.port, password=self._password, decode_responses=True) as client:
            answer = client.execute_command("SENTINEL", "MASTER", SERVICE)
        return dict(zip(answer[::2], answer[1::2], strict=True)) if isinstance(answer, list) else answer

    def _installed(self) -> None:
        program_of(self._maker)

    def _command(self) -> list[str]:
        return [program_of(self._maker), str(self.folder / "sentinel.conf"), "--sentinel"]

    def _answers(self) -> bool:
        try:
            return bool(self.master())
        except redis.RedisError:
            return False


class SentinelRedis:
    """`primary` and `replica` are the servers as they began."""

    def __init__(self, maker: Maker = "redis") -> None:
        self._maker = maker
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return self.sentinel.url

    def __enter__(self) -> Self:
        try:
            self.primary, self.replica = (
                self._stack.enter_context(OwnRedis(self._maker, repl_diskless_sync_delay="0"))
                for _ in range(2)
            )
            with self.replica.client() as client:
                client.replicaof("127.0.0.1", str(self.primary.port))
            self.sentinel = self._stack.enter_context(OwnSentinel(self.primary.port, maker=self._maker))
            self._wait()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def current(self) -> OwnRedis:
        """The primary, as Sentinel says."""
        port = self.sentinel.master()["port"]
        return next(each for each in (self.primary, self.replica) if str(each.port) == port)

    def _wait(self) -> None:
        """Return when the Sentinel knows the replica, which has caught up."""
        deadline = time.monotonic() + READY_S
        while self.sentinel.master()["num-slaves"] != "1" or not self._synced():
            assert time.monotonic() < deadline, self.sentinel.log
            time.sleep(0.02)

    def _synced(self) -> bool:
        with self.replica.client() as client:
            return client.info("replication")["master_link_status"] == "up"
