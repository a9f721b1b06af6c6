"""A connection to Redis whose calls are bounded in time."""

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import MovedError, RedisError, ResponseError

from runstore.feed.redis.topology import ANSWER_S, Topology
from runstore.feed.redis.wire import Command


class RedisConnection:
    """Connects on first use, and reconnects after a failure. Only one thread may use it at a time.

    Args:
        lane: whose server it connects to, wherever that is at the time.
        answer_s: seconds to wait for an answer.
        options: further options of redis-py's connection.
    """

    def __init__(
        self, topology: Topology, lane: int = 0, *, answer_s: float = ANSWER_S, **options: Any
    ) -> None:
        self._topology = topology
        self._lane = lane
        self._options = {"answer_s": answer_s, **options}
        self._connection: Any = None

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one pipeline and return their answers. An error answer is returned, not raised.

        Commands may be sent twice, if the lane moves to another node of a cluster.

        Raises:
            RedisError: the connection failed.
        """
        return self._send(lambda connection: connection.pack_commands(commands), len(commands))

    def run_packed(self, command: bytes) -> Any:
        """Send one command that is already in Redis' wire format, and return its answer."""
        return self._send(lambda _: [command], 1)[0]

    def close(self) -> None:
        """Disconnect; the next `run` finds the server and connects again."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _send(self, packed: Callable[[Any], Sequence[bytes]], count: int) -> list[Any]:
        answers = self._try(packed, count)
        moved = next((answer for answer in answers if isinstance(answer, MovedError)), None)
        if moved is None:
            return answers
        self._topology.moved(moved)
        self.close()
        return self._try(packed, count)

    def _try(self, packed: Callable[[Any], Sequence[bytes]], count: int) -> list[Any]:
        if self._connection is None:
            self._connection = self._topology.connection(self._lane, **self._options)
        connection = self._connection
        try:
            connection.send_packed_command(packed(connection), check_health=False)
            return [_answer(connection) for _ in range(count)]
        except RedisError:
            self._topology.failed(self._lane)
            raise


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def wrong_type(error: ResponseError) -> bool:
    """Whether another application uses this key with another type; other keys still work."""
    return str(error).startswith("WRONGTYPE")
