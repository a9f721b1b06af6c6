"""`runstore keys`, and where a server may be reached with keys and without."""

import json
import socket
from pathlib import Path

import pytest

from tests.kit.command_line import call_command
from tests.kit.database import make_database
from tests.kit.keys import client, make_key
from tests.kit.server import ServerProcess, serving, until

CONFIG = '[agents.quick]\nmodel = "scripted"\n'


def test_a_key_is_shown_once_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    made = call_command("keys", "create", "--user", "alice", "--name", "laptop", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("rsk_")
    assert "\n" not in key
    secret = key.rpartition("_")[2] if key.count("_") == 2 else key.split("_", 2)[2]
    assert secret not in made.stderr
    listed = call_command("keys", "list", folder=tmp_path)
    assert "laptop" in listed.stdout
    assert secret not in listed.stdout
    for file in tmp_path.glob("runstore.db*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes()


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    for options in ([], ["--role", "admin"], ["--expires", "90d"]):
        assert call_command("keys", "create", "--user", "alice", *options, folder=tmp_path).returncode == 0
    keys = listed(tmp_path)
    assert [(key["user_id"], key["role"], key["state"]) for key in keys] == [
        ("alice", "user", "active"),
        ("alice", "admin", "active"),
        ("alice", "user", "active"),
    ]
    assert [key["expires_at"] is None for key in keys] == [True, True, False]
    for answer in ("is revoked.", "is revoked already."):
        revoked = call_command("keys", "revoke", keys[1]["key_id"], folder=tmp_path)
        assert revoked.returncode == 0
        assert answer in revoked.stdout
    assert [key["state"] for key in listed(tmp_path)] == ["active", "revoked", "active"]


def listed(folder: Path) -> list[dict[str, str]]:
    lines = call_command("keys", "list", "--json", folder=folder).stdout.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "0123456789ab"), "there is no key '0123456789ab'"),
        (("create", "--user", ""), "1 to 255 characters"),
        (("create", "--user", "x" * 256), "1 to 255 characters"),
        (("create", "--user", "a", "--expires", "soon"), "90d"),
        (("create", "--user", "a", "--expires", "0d"), "90d"),
        (("create", "--user", "a", "--role", "owner"), "admin"),
    ],
)
def test_a_wrong_key_command_ends_with_2_and_one_line(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    make_database(tmp_path / "runstore.db")
    ended = call_command("keys", *arguments, folder=tmp_path)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [("list",), ("revoke", "0123456789ab")])
def test_keys_are_looked_for_only_where_there_is_a_database(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ended = call_command("keys", *arguments, folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"there is no file {tmp_path / 'runstore.db'}" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_without_keys_any_other_host_than_loopback_is_refused(tmp_path: Path) -> None:
    ended = call_command("serve", "--host", "0.0.0.0", "--port", "0", folder=tmp_path)
    assert ended.returncode == 2
    assert "without API keys the server binds loopback only" in ended.stderr
    assert "runstore keys create" in ended.stderr


def test_with_a_key_any_host_is_bound_and_the_key_is_asked_for(tmp_path: Path) -> None:
    key = make_key(tmp_path, "alice")
    server = ServerProcess(tmp_path, CONFIG, host="0.0.0.0")
    try:
        server.start()
        with client(server, key) as alice:
            assert alice.get("/runs").status_code == 200
        assert server.http.get("/runs").status_code == 401
    finally:
        server.close()


def test_a_server_whose_last_key_was_revoked_stays_closed(tmp_path: Path) -> None:
    key = make_key(tmp_path, "alice")
    key_id = listed(tmp_path)[0]["key_id"]
    assert call_command("keys", "revoke", key_id, folder=tmp_path).returncode == 0
    with serving(tmp_path, CONFIG) as server, client(server, key) as alice:
        assert alice.get("/runs").status_code == 401
        assert server.http.get("/runs").status_code == 401


def test_without_keys_an_authorization_header_is_ignored(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG) as server, client(server, "rsk_000000000000_nothing") as someone:
        assert someone.post("/agents/quick/start", json={"input": "hi"}).json()["user_id"] == "local"


def test_the_first_key_closes_a_running_server_within_seconds(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG) as server:
        run_id = server.begin("quick")
        server.ended(run_id)
        made = call_command("keys", "create", "--user", "alice", folder=tmp_path)
        assert made.returncode == 0
        until(lambda: server.http.get("/runs").status_code == 401, "a key is asked for")
        with client(server, made.stdout.strip()) as alice:
            assert alice.get(f"/runs/{run_id}").status_code == 403  # it is the user local's


def test_a_port_that_is_taken_is_said_with_keys_too(tmp_path: Path) -> None:
    make_key(tmp_path, "alice")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = call_command("serve", "--host", "0.0.0.0", "--port", port, folder=tmp_path)
    assert ended.returncode == 2
    assert port in ended.stderr
