"""An unusable Redis is reported at start-up, in one line without the password."""

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import structlog
from redis.exceptions import RedisError

from runstore.core.errors import ConfigError
from runstore.feed.redis.check import check_redis
from runstore.feed.redis.connection import RedisConnection
from runstore.feed.redis.feed import RedisFeed
from runstore.feed.redis.topology import read_topology, shown
from tests.kit.events import QUEUED
from tests.kit.live import RUN, committed, hears, own_prefix, processes, seqs
from tests.kit.polling import until
from tests.kit.tools import require
from tests.servers.ports import Port
from tests.servers.redis import OwnRedis
from tests.servers.redis_cluster import OwnRedisCluster
from tests.servers.redis_sentinel import OwnSentinel
from tests.servers.shared import shared_redis

PASSWORD = "s3cret-word"


@pytest.fixture(scope="module")
def guarded() -> Iterator[OwnRedis]:
    """A Redis that asks for a password; `reader` may only read, and `other` has other keys."""
    with OwnRedis() as server:
        with server.client() as client:
            client.acl_setuser("reader", True, passwords=[f"+{PASSWORD}"], commands=["+xread"], keys=["*"])
            client.acl_setuser("other", True, passwords=[f"+{PASSWORD}"], categories=["+@all"], keys=["o:*"])
            client.acl_setuser(
                "feed", True, passwords=[f"+{PASSWORD}"], keys=["runstore:*"],
                commands=["+xadd", "+xread", "+xrevrange", "+expire", "+type"],
            )  # fmt: skip
            client.config_set("requirepass", PASSWORD)
        yield server


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that is not Redis; it sends `answer` to each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        answer(connection)
            except OSError:
                pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def refusal(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_redis(url)
    assert caught.value.setting == "redis_url"
    message = str(caught.value)
    assert "\n" not in message
    assert PASSWORD not in message
    return message


def http(connection: socket.socket) -> None:
    connection.recv(10_000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def nothing(connection: socket.socket) -> None:
    connection.recv(10_000)
    while connection.recv(10_000):
        pass


def hang_up(connection: socket.socket) -> None:
    pass


def of_version(version: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        info = b"redis_version:%b\r\n" % version
        while asked := connection.recv(10_000):
            connection.sendall(b"$%d\r\n%b\r\n" % (len(info), info) * asked.count(b"*"))

    return answer


def of_cluster(slots: bytes | bytearray) -> Callable[[socket.socket], None]:
    """A node that answers CLUSTER SLOTS so, and every other command with OK."""

    def answer(connection: socket.socket) -> None:
        while asked := connection.recv(10_000):
            for command in asked.split(b"*")[1:]:
                connection.sendall(slots if b"CLUSTER" in command else b"+OK\r\n")

    return answer


# ---- the URL ----


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost", "http://127.0.0.1", "redis://127.0.0.1:99999", "redis://127.0.0.1/first",
        f"redis://me:{PASSWORD}/@127.0.0.1", "redis://127.0.0.1?socket_timeout=long",
        "redis+cluster://127.0.0.1/1", "redis+cluster://", "redis+cluster://a:1,", "redis+other://a",
        "redis+sentinel://127.0.0.1:26379", "redis+sentinel://127.0.0.1/runs/first", "unix+cluster:///a",
    ],
)  # fmt: skip
def test_a_malformed_url_is_refused(url: str) -> None:
    assert "is not of the form redis://[USER:PASSWORD@]HOST" in refusal(url)


def test_an_option_that_there_is_not_is_refused() -> None:
    assert "redis-py does not know one of its options" in refusal("redis://127.0.0.1?sockets=3")
    assert "redis-py does not know one of its options" in refusal("redis+cluster://127.0.0.1?sockets=3")


async def test_options_of_the_url_change_nothing_of_how_it_is_used() -> None:
    url = f"{shared_redis()}?protocol=3&socket_timeout=0.001&decode_responses=true"
    with own_prefix() as prefix, processes(2, url, prefix) as (here, there):
        await hears(here, there)
        assert here.connected
        assert there.connected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"redis://me:{PASSWORD}@host:1/2?ssl_password={PASSWORD}", "redis://me@host:1/2"),
        (f"redis://me:a@{PASSWORD}@host:1", "redis://me@host:1"),
        (f"redis+sentinel://a:1,b:2/runs?sentinel_password={PASSWORD}", "redis+sentinel://a:1,b:2/runs"),
        (f"redis+sentinel://a:1,b:2/runs?sentinel_password=a@{PASSWORD}", "redis+sentinel://…"),
        (f"redis://me:a/@{PASSWORD}@host", "redis://…"),
        (f"redis://me:a?{PASSWORD}@host", "redis://…"),
        (f"redis://me:a#{PASSWORD}@host", "redis://…"),
        (f"redis://me:[{PASSWORD}@host", "redis://…"),
        (f"unix:///run/redis.sock?password=a@{PASSWORD}", "unix://…"),
        (f"unix:///run/redis.sock?password={PASSWORD}", "unix:///run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, said: str) -> None:
    assert shown(url) == said


# ---- what answers there ----


def test_a_redis_that_will_do_is_said_nothing_of() -> None:
    with structlog.testing.capture_logs() as lines:
        check_redis(shared_redis())
    assert lines == []


def test_a_redis_that_is_absent_is_only_logged() -> None:
    with Port() as port, structlog.testing.capture_logs() as lines:
        check_redis(f"redis://me:{PASSWORD}@127.0.0.1:{port.number}")
        check_redis("redis://no-such-host.invalid")
        check_redis("unix:///no/such/socket")
    assert [line["event"] for line in lines] == ["redis_absent"] * 3
    assert PASSWORD not in str(lines)


@pytest.mark.parametrize("answer", [http, nothing, hang_up])
def test_a_server_that_is_not_redis_is_refused(answer: Callable[[socket.socket], None]) -> None:
    with answering(answer) as address:
        assert "the server at this URL is not Redis" in refusal(f"redis://{address}?socket_timeout=9999")


def test_a_server_that_is_too_old_is_refused() -> None:
    with answering(of_version(b"6.0.16")) as address:
        assert "Redis 6.0.16 is too old; runstore needs 6.2 or newer" in refusal(f"redis://{address}")
    with answering(of_version(b"6.2.0")) as address:
        check_redis(f"redis://{address}")


def test_a_server_of_another_kind_than_the_url_says_is_refused(redis_cluster: OwnRedisCluster) -> None:
    node, plain = redis_cluster.nodes[0].url, shared_redis()
    assert "the server is a node of a cluster, whose URL begins with redis+cluster://" in refusal(node)
    assert "cluster support disabled" in refusal(plain.replace("redis:", "redis+cluster:"))
    assert "unknown command 'SENTINEL'" in refusal(f"{plain.replace('redis:', 'redis+sentinel:')}/runs")
    with OwnSentinel(redis_cluster.nodes[0].port) as sentinel:
        assert "the server is a Sentinel, whose URL is redis+sentinel://" in refusal(
            f"redis://127.0.0.1:{sentinel.port}"
        )
        assert "No such master with that name" in refusal(f"{sentinel.url}-of-others")


def test_a_sentinel_has_a_password_of_its_own(redis_cluster: OwnRedisCluster) -> None:
    with OwnSentinel(redis_cluster.nodes[0].port, PASSWORD) as sentinel:
        assert "the user or password is refused" in refusal(sentinel.url)
        assert "the user or password is refused" in refusal(f"{sentinel.url}?sentinel_password=wrong")
        reached = refusal(f"{sentinel.url}?sentinel_password={PASSWORD}")
        assert "the server is a node of a cluster" in reached  # the primary that it names


def test_a_cluster_is_found_if_one_of_its_nodes_in_the_url_answers(redis_cluster: OwnRedisCluster) -> None:
    with Port() as port, structlog.testing.capture_logs() as lines:
        check_redis(f"redis+cluster://127.0.0.1:{port.number},127.0.0.1:{redis_cluster.nodes[2].port}")
        assert lines == []
        check_redis(f"redis+cluster://me:{PASSWORD}@127.0.0.1:{port.number},no-such-host.invalid")
        check_redis(f"redis+sentinel://127.0.0.1:{port.number}/runs")
    assert [line["event"] for line in lines] == ["redis_absent"] * 2
    assert PASSWORD not in str(lines)


def test_a_node_that_names_a_server_that_is_down_is_asked_last(redis_cluster: OwnRedisCluster) -> None:
    slots = bytearray()
    with Port() as dead, answering(of_cluster(slots)) as one, answering(of_cluster(slots)) as two:
        # The two are cut off, and take each other for primaries.
        ports = (dead.number, *(int(node.rpartition(":")[2]) for node in (one, two)))
        slots += b"*3\r\n"
        for number, port in enumerate(ports):
            slots += b"*3\r\n:%d\r\n:%d\r\n*3\r\n" % (number * 6_000, min(number * 6_000 + 5_999, 16_383))
            slots += b"$9\r\n127.0.0.1\r\n:%d\r\n$2\r\nid\r\n" % port
        url = f"redis+cluster://{one},{two},127.0.0.1:{redis_cluster.nodes[0].port}"
        connection = RedisConnection(read_topology(url))
        for _ in range(2):
            with pytest.raises(RedisError):
                connection.run([("PING",)])
            connection.close()
        assert connection.run([("PING",)]) == [b"PONG"]
        connection.close()


def test_an_answer_of_an_unknown_form_is_a_refusal() -> None:
    with answering(of_cluster(b"+OK\r\n")) as address:
        for url in (f"redis+cluster://{address}", f"redis+sentinel://{address}/runs"):
            assert f"{address} gave an answer of an unknown form" in refusal(url)


# ---- permissions ----


@pytest.mark.parametrize("user", ["", ":wrong@", "feed:wrong@", f"nobody:{PASSWORD}@"])
def test_a_wrong_password_or_none_is_refused(guarded: OwnRedis, user: str) -> None:
    assert "the user or password is refused" in refusal(f"redis://{user}127.0.0.1:{guarded.port}")


@pytest.mark.parametrize("user", ["reader", "other"])
def test_a_redis_user_without_the_needed_rights_is_refused(guarded: OwnRedis, user: str) -> None:
    url = f"redis://{user}:{PASSWORD}@127.0.0.1:{guarded.port}"
    assert "the user lacks a permission that runstore needs" in refusal(url)


async def test_a_redis_user_with_only_the_needed_rights_is_accepted(guarded: OwnRedis) -> None:
    url = f"redis://feed:{PASSWORD}@127.0.0.1:{guarded.port}"
    check_redis(url)
    with processes(2, url) as (here, there):
        await hears(here, there)


# ---- other ways to it ----


async def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    with OwnRedis(unixsocket="redis.sock", unixsocketperm="777") as server:
        url = f"unix://{server.folder}/redis.sock"
        check_redis(url)
        with processes(2, url) as (here, there):
            await hears(here, there)


def make_certificate(folder: Path) -> str:
    """A key and a certificate of 127.0.0.1 that signs itself, in one file that everybody may read."""
    subprocess.run(
        [
            require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-nodes", "-keyout", folder / "key", "-out", folder / "certificate", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "certificate").read_text())
    both.chmod(0o644)
    return str(both)


class TlsRedis(OwnRedis):
    """Listens on a second port with TLS."""

    def __init__(self, port: int, certificate: str) -> None:
        files = dict.fromkeys(("tls_cert_file", "tls_key_file", "tls_ca_cert_file"), certificate)
        super().__init__(tls_port=str(port), tls_auth_clients="no", **files)
        self.certificate = certificate
        self.tls_port = port


async def test_tls_will_do_with_a_certificate_that_is_trusted() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))  # not pytest's, which Redis may not enter
        folder.chmod(0o755)
        port = stack.enter_context(Port())
        server = stack.enter_context(TlsRedis(port.number, make_certificate(folder)))
        url = f"rediss://127.0.0.1:{server.tls_port}"
        assert "TLS failed: CERTIFICATE_VERIFY_FAILED" in refusal(url)
        assert "the file of certificates does not exist" in refusal(f"{url}?ssl_ca_certs=/no/such/file")
        assert "TLS failed: " in refusal(f"rediss://127.0.0.1:{server.port}")
        trusting = f"{url}?ssl_ca_certs={server.certificate}"
        check_redis(trusting)
        with processes(2, trusting) as (here, there), there.subscribe(RUN) as live:
            here.publish([committed(1, QUEUED)])
            await until(lambda: seqs(live.take(0)) == [1])


def test_a_feed_refuses_a_malformed_url_too() -> None:
    with pytest.raises(ConfigError, match="is not of the form"):
        RedisFeed("redis://127.0.0.1/first")
