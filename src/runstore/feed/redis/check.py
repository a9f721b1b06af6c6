"""Checks at process start that the server at a URL can serve as Redis."""

import re
import ssl
from typing import Any

import structlog
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from runstore.core.errors import ConfigError
from runstore.feed.redis.connection import RedisConnection
from runstore.feed.redis.topology import SETTING, ClusterNodes, OneServer, Topology, read_topology, shown
from runstore.feed.redis.wire import Command, Keys

OLDEST = (6, 2)  # older releases have no maintainers any more

log = structlog.get_logger(__name__)


def check_redis(url: str, *, prefix: str = "runstore") -> None:
    """Refuse permanent misconfiguration. An unreachable Redis is only logged: without it, events arrive late.

    Raises:
        ConfigError: the URL is malformed; the server is not Redis, too old, or of another kind than the URL
            says; the password is wrong; the user lacks a permission; the certificate is not trusted.
    """
    topology = read_topology(url)
    for lane in range(topology.lanes):
        if not _answers(url, topology, lane, topology.prefix(prefix, lane)):
            return


def _answers(url: str, topology: Topology, lane: int, prefix: str) -> bool:
    """Whether the server of a lane answers."""
    reached: list[bool] = []

    def greet(connection: Any) -> None:
        reached.append(True)
        connection.on_connect()

    connection = RedisConnection(topology, lane, redis_connect_func=greet)
    try:
        answers = connection.run([("INFO", "server"), *_trial(prefix)])
    except RedisError as error:
        # A server that Sentinel or a node names is Redis: it is only down.
        other = bool(reached) and isinstance(topology, OneServer)
        if reason := _tls_reason(url, error.__context__) or _reason(error, other):
            raise ConfigError(f"{SETTING} {shown(url)}: {reason}", setting=SETTING) from None
        log.warning(
            "redis_absent", url=shown(url), error=str(error), effect="other processes' events come late"
        )
        return False
    finally:
        connection.close()
    if reason := _unusable(answers, topology):
        raise ConfigError(f"{SETTING} {shown(url)}: {reason}", setting=SETTING)
    return True


def _trial(prefix: str) -> list[Command]:
    """The commands that the feed uses, on a key that expires in a second."""
    key = Keys(prefix, "check").wake
    return [
        ("XADD", key, "MAXLEN", "~", 1, "*", "w", "1"),
        ("EXPIRE", key, 1),
        ("XREVRANGE", key, "+", "-", "COUNT", 1),
        ("XREAD", "COUNT", 1, "STREAMS", key, "$"),
        ("TYPE", key),
    ]


def _reason(error: RedisError, other: bool) -> str | None:
    """The reason why retrying cannot help; None if it may help.

    Args:
        other: whether a server that accepts connections and breaks them off is not Redis.
    """
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        return f"the user or password is refused: {error}"
    if isinstance(error.__context__, PermissionError):
        return str(error.__context__)
    if isinstance(error, BusyLoadingError) or "max number of clients" in str(error):
        return None
    if isinstance(error, ResponseError):
        return f"Redis refuses: {error}"
    if other or isinstance(error, InvalidResponse):
        return f"the server at this URL is not Redis: {error}"
    return None


def _tls_reason(url: str, cause: BaseException | None) -> str | None:
    if not url.startswith("rediss"):
        return None
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason or cause}"
    if isinstance(cause, FileNotFoundError):
        return "TLS failed: the file of certificates does not exist"
    if isinstance(cause, TimeoutError) and "handshake" in str(cause):
        return "TLS failed: the server at this URL does not speak TLS"
    return None


def _unusable(answers: list[Any], topology: Topology) -> str | None:
    info, *trial = answers
    for answer in trial:
        if isinstance(answer, NoPermissionError):
            return f"the user lacks a permission that runstore needs: {answer}"
    if isinstance(info, AuthenticationError):
        return f"the user or password is refused: {info}"
    if isinstance(info, NoPermissionError):
        return None  # the version is unknown, but all needed commands work
    if isinstance(info, RedisError):
        return f"Redis refuses: {info}"
    facts = dict(re.findall(rb"^(\w+):(.*?)\r?$", info, re.MULTILINE)) if isinstance(info, bytes) else {}
    version = facts.get(b"redis_version", b"").decode()
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not numbers:
        return "the server at this URL is not Redis"
    if numbers < OLDEST:
        return f"Redis {version} is too old; runstore needs {'.'.join(map(str, OLDEST))} or newer"
    mode = facts.get(b"redis_mode") or facts.get(b"server_mode")  # the names in Redis and Valkey
    if mode == b"cluster" and not isinstance(topology, ClusterNodes):
        return "the server is a node of a cluster, whose URL begins with redis+cluster://"
    if mode == b"sentinel":
        return "the server is a Sentinel, whose URL is redis+sentinel://HOST:PORT/SERVICE"
    return None
