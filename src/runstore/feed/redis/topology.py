"""The servers of Redis: one server, the primary that Sentinel names, or the nodes of a cluster."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis.cluster import parse_cluster_slots
from redis.connection import Connection, parse_url
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError, InvalidResponse, MovedError, RedisError

from runstore.core.errors import ConfigError

CONNECT_S = 2.0  # seconds for a connection attempt
ANSWER_S = 2.0  # seconds for an answer, so that a hung Redis blocks a thread no longer

# Lanes of a cluster. Each has one slot, as one command reads many streams only if they share a slot.
CLUSTER_LANES = 6
MAX_SEEDS = 100  # addresses of Sentinels or of nodes of a cluster that are remembered

SETTING = "redis_url"
URL_FORM = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://… or unix:///PATH,"
    " redis+cluster://HOST:PORT,HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE[/DB]"
)

Address = tuple[str, int]


class Topology(ABC):
    """Opens connections. A lane is a part of the runs whose keys are all at one server at a time."""

    lanes = 1

    @abstractmethod
    def connection(self, lane: int, **options: Any) -> Any:
        """A connection of redis-py to the server that has a lane now; it connects on first use.

        Raises:
            RedisError: no server knows where that is.
        """

    def prefix(self, prefix: str, lane: int) -> str:
        """The prefix of the keys of a lane."""
        return prefix

    def moved(self, error: MovedError) -> None:  # noqa: B027
        """The server redirected a lane to another server."""

    def failed(self, lane: int) -> None:  # noqa: B027
        """The connection of a lane failed: the address of its server may be out of date."""


def read_topology(url: str) -> Topology:
    """The topology that a URL names.

    Raises:
        ConfigError: the URL is malformed or has an unknown option.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _malformed() from None
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        topology: Topology = OneServer(_parse(url))
    elif scheme in ("redis", "rediss") and kind in MANY:
        topology = MANY[kind](parts._replace(scheme=scheme))
    else:
        raise _malformed()
    _check_options(url, topology)
    return topology


class OneServer(Topology):
    """One Redis, with or without replicas."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def connection(self, lane: int, **options: Any) -> Any:
        """See `Topology.connection`."""
        return _connection(self._options | options)


class Seeds(Topology):
    """Several servers. Any of them can name the server of a lane.

    One that fails, or named a server that fails, is asked last from then on.
    """

    def __init__(self, parts: SplitResult, path: str) -> None:
        credentials, at, hosts = parts.netloc.rpartition("@")
        each = [
            _parse(parts._replace(netloc=f"{credentials}{at}{host}", path=path).geturl())
            for host in hosts.split(",")
        ]
        self._options = each[0]
        self.seeds: list[Address] = [_address(options, self.port) for options in each]
        self._sources: dict[int, Address] = {}  # lane → the seed that named its server

    port: int  # the default port

    def at(self, address: Address, **options: Any) -> Any:
        """A connection to the server at an address."""
        host, port = address
        return _connection(self._options | options | {"host": host, "port": port})

    def ask(
        self, lane: int, command: tuple[str, ...], read: Callable[[Address, Any], Address], **options: Any
    ) -> Address:
        """Ask the seeds in turn for the server of a lane, until `read` understands an answer.

        Raises:
            RedisError: none of them gave one; the error of the last one.
        """
        last: RedisError = ConnectionError("no address is known")
        for seed in list(self.seeds):
            connection = self.at(seed, **options)
            try:
                connection.send_command(*command)
                address = _understood(read, seed, connection.read_response())
            except RedisError as error:
                last = error
                self._ask_last(seed)
            else:
                self._sources[lane] = seed
                return address
            finally:
                connection.disconnect()
        raise last

    def failed(self, lane: int) -> None:
        """See `Topology.failed`."""
        if (source := self._sources.pop(lane, None)) is not None:
            self._ask_last(source)

    def learn(self, addresses: list[Address]) -> None:
        """Remember addresses. New ones are asked first; the others keep their turns."""
        new = [address for address in dict.fromkeys(addresses) if address not in self.seeds]
        self.seeds = [*new, *self.seeds][:MAX_SEEDS]

    def ask_first(self, address: Address) -> None:
        self.seeds = list(dict.fromkeys([address, *self.seeds]))[:MAX_SEEDS]

    def _ask_last(self, seed: Address) -> None:
        self.seeds = sorted(self.seeds, key=seed.__eq__)


class Sentinels(Seeds):
    """The primary of a service that Redis Sentinel watches.

    https://redis.io/docs/latest/develop/reference/sentinel-clients/
    """

    port = 26379

    def __init__(self, parts: SplitResult) -> None:
        self._service, _, database = parts.path.strip("/").partition("/")
        if not self._service:
            raise _malformed()
        super().__init__(parts, f"/{database}" if database else "")
        names = ("sentinel_username", "sentinel_password")
        account = {name.removeprefix("sentinel_"): self._options.pop(name, None) for name in names}
        self._sentinel = account | {"db": 0}

    def connection(self, lane: int, **options: Any) -> Any:
        """See `Topology.connection`."""
        asked = ("SENTINEL", "MASTER", self._service)
        return self.at(self.ask(lane, asked, self._primary, **self._sentinel), **options)

    def _primary(self, sentinel: Address, answer: list[bytes]) -> Address:
        facts = dict(zip(answer[::2], answer[1::2], strict=False))
        flags = facts[b"flags"].decode().split(",")
        if "master" not in flags or {"s_down", "o_down", "disconnected"} & {*flags}:
            raise ConnectionError(f"Sentinel knows no working primary of {self._service}: {','.join(flags)}")
        return facts[b"ip"].decode(), int(facts[b"port"])


class ClusterNodes(Seeds):
    """The nodes of a Redis Cluster. The lanes' slots are spread evenly over all slots, as primaries' are.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
    """

    port = 6379
    lanes = CLUSTER_LANES

    def __init__(self, parts: SplitResult) -> None:
        if parts.path.strip("/") not in ("", "0"):
            raise _malformed()  # a cluster has only database 0
        super().__init__(parts, "")
        self._tags = [_tag(lane) for lane in range(self.lanes)]

    def prefix(self, prefix: str, lane: int) -> str:
        """See `Topology.prefix`. It has a hash tag."""
        return f"{prefix}:{{{self._tags[lane]}}}"

    def connection(self, lane: int, **options: Any) -> Any:
        """See `Topology.connection`."""
        slot = key_slot(self._tags[lane].encode())

        def primary_of_slot(node: Address, answer: Any) -> Address:
            ranges = parse_cluster_slots(answer, current_host=node[0])
            self.learn([nodes["primary"] for nodes in ranges.values()])
            for (first, last), nodes in ranges.items():
                if first <= slot <= last:
                    primary: Address = nodes["primary"]
                    return primary
            raise ConnectionError(f"no node of the cluster has slot {slot}")

        return self.at(self.ask(lane, ("CLUSTER", "SLOTS"), primary_of_slot), **options)

    def moved(self, error: MovedError) -> None:
        """See `Topology.moved`. The new node knows of the move before all others."""
        if error.host:
            self.ask_first((error.host, error.port))


MANY: dict[str, type[Sentinels | ClusterNodes]] = {"sentinel": Sentinels, "cluster": ClusterNodes}


def _understood(read: Callable[[Address, Any], Address], seed: Address, answer: Any) -> Address:
    try:
        return read(seed, answer)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise InvalidResponse(f"{seed[0]}:{seed[1]} gave an answer of an unknown form") from None


def _tag(lane: int) -> str:
    """The first number whose slot is in this lane's part of all slots."""
    number = 0
    while key_slot(b"%d" % number) * CLUSTER_LANES // REDIS_CLUSTER_HASH_SLOTS != lane:
        number += 1
    return str(number)


def _connection(options: dict[str, Any]) -> Any:
    ours = {
        "socket_connect_timeout": CONNECT_S, "socket_timeout": options.pop("answer_s", ANSWER_S),
        "protocol": 2, "decode_responses": False, "retry_on_timeout": False,
    }  # fmt: skip
    connection_class = options.pop("connection_class", Connection)
    return connection_class(**options | ours)


def _check_options(url: str, topology: Topology) -> None:
    """Raise ConfigError for an option of the URL that redis-py's connections do not know."""
    try:
        if isinstance(topology, Seeds):
            topology.at(topology.seeds[0])
        else:
            topology.connection(0)
    except TypeError:
        unknown = f"{SETTING} {shown(url)}: redis-py does not know one of its options"
        raise ConfigError(unknown, setting=SETTING) from None
    except (ValueError, RedisError) as error:
        raise ConfigError(f"{SETTING} {shown(url)}: {error}", setting=SETTING) from None


def _parse(url: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        parsed.get("host", "").encode("idna")  # the look-up of the host would fail here, too
        database = urlsplit(url).path.strip("/")
    except ValueError:
        raise _malformed() from None  # the original message may hold part of a password
    if database and "db" not in parsed and "path" not in parsed:
        raise _malformed()
    return parsed


def _address(options: dict[str, Any], port: int) -> Address:
    if "host" not in options:
        raise _malformed()
    return options.pop("host"), options.pop("port", port)


def _malformed() -> ConfigError:
    return ConfigError(f"{SETTING} is not of the form {URL_FORM}", setting=SETTING)


def shown(url: str) -> str:
    """The URL without password and options."""
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{scheme}://…"
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return f"{scheme}://…"  # a password may begin before any "@"
    credentials, _, hosts = parts.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user and f'{user}@'}{hosts}{parts.path}"
