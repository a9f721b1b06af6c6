"""A connection to Redis whose calls are bounded in time."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.connection import Connection, parse_url
from redis.exceptions import RedisError, ResponseError

from runstore.core.errors import ConfigError
from runstore.feed.redis.wire import Command

CONNECT_S = 2.0  # seconds for a connection attempt
ANSWER_S = 2.0  # seconds for an answer, so that a hung Redis blocks a thread no longer

SETTING = "redis_url"
URL_FORM = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://… or unix:///PATH"


class RedisConnection:
    """Connects on first use, and reconnects after a failure. Only one thread may use it at a time.

    Args:
        url: may carry options of redis-py's connections, such as `?ssl_ca_certs=FILE`.
        answer_s: seconds to wait for an answer.
        options: further options of redis-py's connection.

    Raises:
        ConfigError: the URL is malformed or has an unknown option.
    """

    def __init__(self, url: str, *, answer_s: float = ANSWER_S, **options: Any) -> None:
        parsed = _parse(url)
        ours = {
            "socket_connect_timeout": CONNECT_S, "socket_timeout": answer_s, "protocol": 2,
            "decode_responses": False, "retry_on_timeout": False,
        }  # fmt: skip
        connection_class = parsed.pop("connection_class", Connection)
        try:
            self._connection = connection_class(**parsed | options | ours)
        except TypeError:
            unknown = f"{SETTING} {shown(url)}: redis-py does not know one of its options"
            raise ConfigError(unknown, setting=SETTING) from None
        except (ValueError, RedisError) as error:
            raise ConfigError(f"{SETTING} {shown(url)}: {error}", setting=SETTING) from None

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one pipeline and return their answers. An error answer is returned, not raised.

        Raises:
            RedisError: the connection failed.
        """
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        return [self._answer() for _ in commands]

    def run_packed(self, command: bytes) -> Any:
        """Send one command that is already in Redis' wire format, and return its answer."""
        self._connection.send_packed_command([command], check_health=False)
        return self._answer()

    def close(self) -> None:
        """Disconnect; the next `run` connects again."""
        self._connection.disconnect()

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error


def _parse(url: str) -> dict[str, Any]:
    malformed = ConfigError(f"{SETTING} is not of the form {URL_FORM}", setting=SETTING)
    try:
        parsed: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        database = urlsplit(url).path.strip("/")
    except ValueError:
        raise malformed from None  # the original message may hold part of a password
    if database and "db" not in parsed and "path" not in parsed:
        raise malformed
    return parsed


def shown(url: str) -> str:
    """The URL without password and options."""
    scheme, _, rest = url.partition("://")
    # Split at the last "@": a password may hold "@", "/" and "?".
    credentials, _, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user and f'{user}@'}{place.partition('?')[0]}"


def wrong_type(error: ResponseError) -> bool:
    """Whether another application uses this key with another type; other keys still work."""
    return str(error).startswith("WRONGTYPE")
