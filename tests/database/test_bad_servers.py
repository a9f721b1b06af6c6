"""A database or Redis that cannot be used stops the start: one clear line, exit code 2, no traceback."""

import importlib.util
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import create_engine, make_url, text

import runstore.cli.main as cli
from runstore.feed.redis.topology import shown
from tests.servers.databases import bare_database, empty_database
from tests.servers.mariadb import OwnMariadb
from tests.servers.ports import Port
from tests.servers.shared import configured, shared_database, shared_redis

SERVERS = ("postgresql", "mysql")


@pytest.fixture(autouse=True)
def _logs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line would log to what this test captures, for good."""
    monkeypatch.setattr("runstore.logs.configure_logs", lambda *arguments, **options: None)


@pytest.fixture
def free_port() -> Iterator[int]:
    """An address without a listener."""
    with Port() as port:
        yield port.number


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The command line's message for an impossible command."""
    before, sys.argv = sys.argv, ["runstore", *arguments]
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = before
    assert left.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("runstore: ")]) == 1, said
    assert not [line for line in said if "Traceback" in line]
    return said[-1]


def refused_url(capsys: pytest.CaptureFixture[str], url: str) -> str:
    return refused(capsys, "migrate", "--database-url", url)


@pytest.mark.parametrize(
    "url", ["postgresql+asyncpg://me:secret@there/runs", "mysql+mysqldb://there/runs", "oracle://x"]
)
def test_an_unknown_driver_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str], url: str
) -> None:
    said = refused_url(capsys, url)
    assert "postgresql+psycopg://" in said
    assert "mysql+pymysql://" in said
    assert "secret" not in said


@pytest.mark.parametrize("url", ["postgresql+psycopg://there", "mysql+pymysql://there/"])
def test_a_url_without_a_database_is_refused(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert "it names no database" in refused_url(capsys, url)


def test_a_port_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused_url(capsys, "postgresql+psycopg://me:secret@there:port/runs?password=secret")
    assert "postgresql+psycopg://" in said
    assert "secret" not in said


PG, MY = "postgresql+psycopg://me:secret@127.0.0.1:1/runs", "mysql+pymysql://me:secret@127.0.0.1:1/runs"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"{PG}?sslmod=require", 'invalid connection option "sslmod"'), (f"{MY}?foo=bar", "'foo'"),
        (f"{MY}?ssl=true", "its driver refuses the URL"), (f"{MY}?charset=utf", "its driver refuses the URL"),
        (f"{MY}?ssl_ca=/nowhere", "No such file"), (PG.replace("127.0.0.1", "x" * 64), "label too long"),
        (MY.replace("127.0.0.1", "a..b"), "label empty or too long"),
        ("sqlite:///a%00b", "NUL"), (f"sqlite:///{'x' * 300}", "File name too long"),
        ("sqlite:///a?mode=ro&uri=true", "SQLite takes no options"), ("sqlite:///a?timeout=1", "no options"),
    ],
)  # fmt: skip
def test_what_a_driver_cannot_take_is_an_error_of_the_url(
    capsys: pytest.CaptureFixture[str], url: str, words: str
) -> None:
    said = refused_url(capsys, url)
    assert words in said
    assert "secret" not in said


def test_a_server_that_takes_too_little_at_once_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with OwnMariadb(max_allowed_packet="1M") as server:
        assert "max_allowed_packet is 1,048,576" in refused_url(capsys, server.url)


@pytest.mark.parametrize("option", [True, False])
def test_the_password_is_not_shown_when_all_is_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: bool
) -> None:
    with bare_database("postgresql", tmp_path) as url:
        database = make_url(url).set(password="secret")
        if option:
            database = database.set(password=None).update_query_dict({"password": "secret"})
        with_password = database.render_as_string(hide_password=False)
        monkeypatch.setattr(sys, "argv", ["runstore", "migrate", "--database-url", with_password])
        with pytest.raises(SystemExit) as left:
            cli.main()
    said = capsys.readouterr()
    assert left.value.code == 0
    assert "schema" in said.out
    assert "secret" not in said.out + said.err


@pytest.mark.parametrize(("kind", "extra"), [("postgresql", "postgres"), ("mysql", "mysql")])
def test_a_missing_driver_names_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str, extra: str
) -> None:
    find = importlib.util.find_spec
    absent = ("psycopg", "pymysql")
    monkeypatch.setattr(
        "runstore.database.dialects.find_spec", lambda name: None if name in absent else find(name)
    )
    assert f"pip install 'runstore[{extra}]'" in refused_url(capsys, f"{kind}://there/runs")


@pytest.mark.parametrize("kind", SERVERS)
def test_a_missing_server_is_reported(capsys: pytest.CaptureFixture[str], free_port: int, kind: str) -> None:
    url = make_url(configured(kind)).set(port=free_port).update_query_dict({"password": "secret"})
    said = refused_url(capsys, url.render_as_string(hide_password=False))
    assert "refused" in said
    assert "secret" not in said


@pytest.mark.parametrize("kind", SERVERS)
def test_a_refused_login_is_reported(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    url = shared_database(kind).set(username="nobody_of_that_name", password="secret")
    said = refused_url(capsys, url.render_as_string(hide_password=False))
    assert "nobody_of_that_name" in said.partition("@")[2]
    assert "secret" not in said


@pytest.mark.parametrize("kind", SERVERS)
def test_a_missing_database_is_reported(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    url = shared_database(kind).set(database="no_such_database")
    said = refused_url(capsys, url.render_as_string(hide_password=False))
    assert "no_such_database" in said.rpartition(": ")[2]


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("command", [("workers",), ("projections", "verify"), ("keys", "list")])
def test_a_database_without_a_log_is_refused_by_what_needs_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str, command: tuple[str, ...]
) -> None:
    with bare_database(kind, tmp_path) as url:
        assert "`runstore migrate`" in refused(capsys, *command, "--database-url", url)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_newer_schema_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str) -> None:
    with empty_database(kind, tmp_path) as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        assert "upgrade runstore" in refused_url(capsys, url)


# ---- Redis ----


def refused_redis(capsys: pytest.CaptureFixture[str], tmp_path: Path, url: str) -> str:
    database = f"sqlite:///{tmp_path / 'runstore.db'}"
    return refused(capsys, "worker", "--database-url", database, "--redis-url", url)


BAD_REDIS = [
    "http://127.0.0.1:6379",
    "redis",
    "redis://127.0.0.1:port",
    "redis://a..b",
    "redis+cluster://a..b:1",
]


@pytest.mark.parametrize("url", BAD_REDIS)
def test_a_malformed_url_of_redis_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, url: str
) -> None:
    assert "redis://" in refused_redis(capsys, tmp_path, url)


def test_a_server_that_is_not_redis_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        said = refused_redis(capsys, tmp_path, f"redis://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "not Redis" in said


def test_a_password_that_redis_refuses_is_reported_and_not_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refused_redis(capsys, tmp_path, shared_redis().replace("redis://", "redis://nobody:secret@", 1))
    assert "password" in said
    assert "secret" not in said


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_postgresql_database_that_is_not_utf_8_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, encoding: str
) -> None:
    with bare_database("postgresql", tmp_path) as url:
        server = create_engine(shared_database("postgresql"), isolation_level="AUTOCOMMIT")
        name = make_url(url).database
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
            options = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
            connection.execute(text(f"CREATE DATABASE {name} {options}"))
        server.dispose()
        said = refused_url(capsys, url)
        assert encoding in said
        assert "UTF8" in said


def test_a_mysql_database_that_is_not_utf_8_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with bare_database("mysql", tmp_path) as url:
        assert "charset=" in refused_url(capsys, f"{url}&charset=latin1")
        server = create_engine(shared_database("mysql"), isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {make_url(url).database} CHARACTER SET latin1"))
        server.dispose()
        assert "ALTER DATABASE" in refused_url(capsys, url)


PASSWORDS = ["hunter2", "hun/ter2", "hun@ter2", "hun?ter2", "hun#ter2", "hun:ter2", "hun ter2"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me:{}@127.0.0.1:1/runs", "oracle://me:{}@there:x/runs"]
)
def test_no_message_holds_a_part_of_a_password(
    capsys: pytest.CaptureFixture[str], url: str, password: str
) -> None:
    said = refused_url(capsys, url.format(password))
    assert "ter2" not in said
    assert "hun" not in said


def test_options_that_are_taken_for_the_user_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused_url(capsys, "postgresql+psycopg://there?dbname=runs&password=hun@ter2")
    assert "it names no database" in said
    assert "hun" not in said
    assert "ter2" not in said


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_redis_url_is_shown_without_its_password(password: str) -> None:
    assert "ter2" not in shown(f"redis://me:{password}@there:6379/0?ssl_password=ter2")
