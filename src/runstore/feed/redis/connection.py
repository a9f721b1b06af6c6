"""A connection to Redis that never waits for long."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.connection import Connection, parse_url
from redis.exceptions import RedisError, ResponseError

from runstore.core.errors import ConfigError
from runstore.feed.redis.wire import Command

CONNECT_S = 2.0  # to be connected
ANSWER_S = 2.0  # for an answer: a Redis that has stopped keeps a thread for no longer

SETTING = "redis_url"
URL_FORM = "redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://… or unix:///PATH"


class RedisConnection:
    """Connects when it is first used, and again after it failed. For one thread at a time.

    Args:
        url: may have options of redis-py's connections, as `?ssl_ca_certs=FILE`.
        answer_s: for an answer.
        options: more of them.

    Raises:
        ConfigError: the URL is malformed, or has an option that there is not.
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
            unknown = f"{SETTING} {shown(url)}: it has an option that redis-py does not know"
            raise ConfigError(unknown, setting=SETTING) from None
        except (ValueError, RedisError) as error:
            raise ConfigError(f"{SETTING} {shown(url)}: {error}", setting=SETTING) from None

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once and return their answers; one that is an error is returned, not raised.

        Raises:
            RedisError: the connection failed.
        """
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        return [self._answer() for _ in commands]

    def run_packed(self, command: bytes) -> Any:
        """The same with one command that is in Redis' own form."""
        self._connection.send_packed_command([command], check_health=False)
        return self._answer()

    def close(self) -> None:
        """The next `run` connects again."""
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
        raise malformed from None  # its message may hold part of a password
    if database and "db" not in parsed and "path" not in parsed:
        raise malformed
    return parsed


def shown(url: str) -> str:
    """The URL without what is secret in it."""
    scheme, _, rest = url.partition("://")
    credentials, _, place = rest.rpartition("@")  # the last one: a password may hold "@", "/" and "?"
    user = credentials.partition(":")[0]
    return f"{scheme}://{user and f'{user}@'}{place.partition('?')[0]}"


def wrong_type(error: ResponseError) -> bool:
    """Whether it says that somebody else uses the key: other keys are well."""
    return str(error).startswith("WRONGTYPE")
