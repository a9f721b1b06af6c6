"""Passwords stand in no command line, and files that hold data or secrets are their owner's alone."""

import grp
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

import runstore
from runstore import AgentSpec
from runstore.cli.secrets import take_secrets
from runstore.core.errors import ConfigError
from runstore.database.dialects import files
from runstore.database.dialects.files import is_writable_to_others
from runstore.settings import ServerSettings, load_settings, override
from runstore.settings.secrets import warn_of_open_secrets
from tests.kit.command_line import call_command
from tests.kit.database import make_database
from tests.kit.polling import DEADLINE_S
from tests.kit.slow import mostly_slow, slow
from tests.kit.tools import DENIED, forbidden, require

URL = "postgresql+psycopg://me:hunter2@there/runs?sslpassword=swordfish"
NOBODY = 65534
SHOW = """
import sys
from pathlib import Path
from runstore.cli.secrets import take_secrets, wipe
wipe(list(take_secrets(sys.argv[1:])[1].values()))
print(Path("/proc/self/cmdline").read_text())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("given", [["--database-url", URL], [f"--redis-url={URL}"], ["--api-key", "hunter2"]])
def test_a_secret_is_wiped_from_the_command_line(given: list[str]) -> None:
    arguments = [sys.executable, "-c", SHOW, "serve", *given, "--port", "1"]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert "hunter2" not in shown
    assert "swordfish" not in shown
    assert "serve" in shown
    assert "--port" in shown


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_url_without_a_secret_stays_in_the_command_line() -> None:
    arguments = [sys.executable, "-c", SHOW, "serve", "--database-url", "sqlite:///runstore.db"]
    assert "sqlite:///runstore.db" in subprocess.run(arguments, capture_output=True, text=True).stdout


def test_secrets_go_to_other_processes_by_the_environment() -> None:
    arguments = ["serve", "--database-url", URL, "--port=1", "--redis-url=redis://x", "--", "--api-key", "x"]
    kept, taken = take_secrets(arguments)
    assert kept == ["serve", "--port=1", "--", "--api-key", "x"]
    assert taken == {"RUNSTORE_DATABASE_URL": URL, "RUNSTORE_REDIS_URL": "redis://x"}


# URLs in files.


def test_a_url_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    config = tmp_path / "runstore.toml"
    config.write_text("[server]\ndatabase_url_file = 'url'\nredis_url_file = 'url'\n")
    server = load_settings(config).server
    assert (server.database_url, server.redis_url) == (URL, URL)
    assert override(server, {"database_url": "sqlite:///x.db"}).database_url == "sqlite:///x.db"
    changed = override(ServerSettings(), {"database_url_file": str(tmp_path / "url")})
    assert changed.database_url == URL


def test_a_url_that_is_given_comes_before_a_file(tmp_path: Path) -> None:
    changes = {"database_url": "sqlite:///x.db", "database_url_file": str(tmp_path / "none")}
    assert override(ServerSettings(), changes).database_url == "sqlite:///x.db"


@pytest.mark.parametrize("text", [None, "", "one\ntwo\n", b"\xff"])
def test_a_file_that_is_no_url_is_refused(tmp_path: Path, text: Any) -> None:
    file = tmp_path / "url"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match="url"):
        override(ServerSettings(), {"database_url_file": str(file)})


def test_a_url_and_a_file_in_one_configuration_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "runstore.toml"
    config.write_text("[server]\ndatabase_url = 'sqlite:///x.db'\ndatabase_url_file = 'url'\n")
    with pytest.raises(ConfigError, match=r":3: .*either `database_url` or `database_url_file`"):
        load_settings(config)


# Files.

CODE = {"run-code": AgentSpec(code=True)}
OPEN = "other users of the machine can open or replace it"


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Gives a file to another user. Without the right to, this process takes the name of another user."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.lchown(path, NOBODY, NOBODY)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: NOBODY)

    return give


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


async def test_created_files_are_open_only_to_their_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with runstore.open(f"sqlite:///{tmp_path / 'runstore.db'}", agents=CODE):
            made = modes(tmp_path)
    finally:
        os.umask(before)
    assert {"runstore.db", "runstore.db-wal", "runstore.db-shm", "runstore.db.workers"} <= made.keys()
    assert {name: mode for name, mode in made.items() if mode & 0o077} == {}


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o666])
async def test_submitted_code_does_not_run_beside_a_database_that_others_can_open(
    tmp_path: Path, mode: int
) -> None:
    database = tmp_path / "runstore.db"
    url = f"sqlite:///{database}"
    async with runstore.open(url):
        pass
    database.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {database}"):
        async with runstore.open(url, agents=CODE):
            raise AssertionError("it is open")


WIDER = {"": 0o640, "-wal": 0o604, "-shm": 0o666, ".workers": 0o750}


@pytest.mark.parametrize("suffix", WIDER)
@pytest.mark.parametrize("agents", [None, slow({})], ids=["log", "agents"])
async def test_files_that_others_can_open_are_refused_with_the_remedy(
    tmp_path: Path, suffix: str, agents: dict[str, Any] | None
) -> None:
    url, file = f"sqlite:///{tmp_path / 'runstore.db'}", tmp_path / f"runstore.db{suffix}"
    async with runstore.open(url, agents={}):
        file.chmod(WIDER[suffix])
        with pytest.raises(ConfigError, match=f"chmod {700 if suffix == '.workers' else 600} {file};"):
            async with runstore.open(url, agents=agents):
                raise AssertionError("it is open")
        async with runstore.open(url, agents=agents, shared_files=True):
            pass


@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o777, True), (0o702, True), (0o1777, False), (0o1770, False), (0o755, False), (0o700, False)],
)
async def test_a_folder_where_others_could_replace_the_files_is_refused(
    tmp_path: Path, mode: int, refused: bool
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    opening = runstore.open(f"sqlite:///{folder / 'runstore.db'}")
    if refused:
        with pytest.raises(ConfigError, match=f"chmod go-w {folder}; run as"):
            await opening.__aenter__()
        opening = runstore.open(f"sqlite:///{folder / 'runstore.db'}", shared_files=True)
    async with opening:
        pass


PLACES = ["runstore.db", "runstore.db-wal", "runstore.db.workers", "link.db", "nowhere.db"]


@pytest.mark.parametrize("place", PLACES)
async def test_files_of_another_user_are_refused(
    tmp_path: Path, give: Callable[[Path], None], place: str
) -> None:
    folder = tmp_path / "above" / "data"
    folder.mkdir(parents=True)
    (folder / "link.db").symlink_to(folder / "runstore.db")
    (folder / "nowhere.db").symlink_to(folder / "none.db")
    (folder / "runstore.db.workers").mkdir(0o700)
    for name in ("runstore.db", "runstore.db-wal"):
        (folder / name).touch(0o600)
    given = folder / place
    give(given)
    file = folder / (place if "link" in place or "nowhere" in place else "runstore.db")
    me = pwd.getpwuid(os.geteuid()).pw_name
    with pytest.raises(ConfigError, match=f"{OPEN}: .*chown {me} {given}[; ]"):
        async with runstore.open(f"sqlite:///{file}"):
            raise AssertionError("it is open")
    assert (folder / "runstore.db").stat().st_size == 0
    assert not (folder / "none.db").exists()


@pytest.mark.parametrize("place", [".", ".."])
async def test_only_root_works_in_folders_of_another_user(
    tmp_path: Path, give: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Root does in containers, whose folders are often those of the person who started them."""
    folder = tmp_path / "above" / "data"
    folder.mkdir(parents=True)
    given = (folder / place).resolve()
    give(given)
    with monkeypatch.context() as as_another:
        as_another.setattr(os, "geteuid", lambda: 1)
        with pytest.raises(ConfigError, match=f"{OPEN}: .*chown {pwd.getpwuid(1).pw_name} {given}[; ]"):
            async with runstore.open(f"sqlite:///{folder / 'runstore.db'}"):
                raise AssertionError("it is open")
    async with runstore.open(f"sqlite:///{folder / 'runstore.db'}"):
        pass


def test_in_a_user_namespace_a_folder_of_a_user_outside_of_it_is_no_fault(
    tmp_path: Path, give: Callable[[Path], None]
) -> None:
    """As a container without privileges sees the folders of its host."""
    tmp_path.chmod(0o755)
    give(tmp_path)
    look = f"print(list(folder_remedies({str(tmp_path / 'runstore.db')!r})))"
    code = f"from runstore.database.dialects.files import folder_remedies; {look}"
    apart = [require("unshare"), "--user", "--map-user=1000"]
    tried = subprocess.run([*apart, "true"], check=False, capture_output=True, text=True)
    if DENIED.search(tried.stderr):
        forbidden(f"this machine does not permit user namespaces: {tried.stderr.strip()}")
    assert tried.returncode == 0, tried.stderr
    assert subprocess.check_output([*apart, sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize(
    ("uid_map", "is_own"),
    [
        ("0 0 4294967295", True),  # no namespace
        ("0 1000 1\n1 100000 65536", True),  # a container without privileges, which has a user nobody
        ("0 1000 1\n65535 100000 1", False),
        ("0 1000 1\n1 100000 65533", False),
    ],
)
def test_a_user_of_the_namespace_with_the_id_of_users_outside_is_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid_map: str, is_own: bool
) -> None:
    (tmp_path / "uid_map").write_text(uid_map)
    (tmp_path / "overflowuid").write_text("65534\n")
    monkeypatch.setattr(files, "UID_MAP", tmp_path / "uid_map")
    monkeypatch.setattr(files, "OVERFLOW_ID", tmp_path / "overflowuid")
    file = tmp_path / "runstore.db"
    file.touch(0o600)
    status = SimpleNamespace(st_uid=NOBODY, st_mode=0o600)
    monkeypatch.setattr(os, "lstat", lambda path: status)
    found = list(files.remedies(file, str(file), 600))
    assert found == ([f"chown {pwd.getpwuid(os.geteuid()).pw_name} {file}"] if is_own else [])


async def test_a_database_of_another_user_is_opened_if_files_are_shared(
    tmp_path: Path, give: Callable[[Path], None]
) -> None:
    database = make_database(tmp_path / "runstore.db")
    give(database)
    with capture_logs() as lines:
        async with runstore.open(f"sqlite:///{database}", shared_files=True):
            pass
    [line] = [line for line in lines if line["event"] == "database_open_to_others"]
    assert f"chown {pwd.getpwuid(os.geteuid()).pw_name} {database}" in line["remedy"]


@pytest.mark.parametrize("linked", [False, True])
async def test_a_folder_further_up_that_others_can_write_is_refused(tmp_path: Path, linked: bool) -> None:
    above = tmp_path / "above"
    (above / "data").mkdir(parents=True)
    above.chmod(0o777)
    folder = above / "data"
    if linked:
        folder = tmp_path / "link"
        folder.symlink_to(above / "data")
    with pytest.raises(ConfigError, match=f"{OPEN}: chmod go-w {above};"):
        async with runstore.open(f"sqlite:///{folder / 'runstore.db'}"):
            raise AssertionError("it is open")


async def test_a_url_in_a_file_of_another_user_is_refused(
    tmp_path: Path, give: Callable[[Path], None]
) -> None:
    url, config = tmp_path / "url", tmp_path / "runstore.toml"
    url.write_text("redis://127.0.0.1:1")
    url.chmod(0o600)
    config.write_text("[server]\nredis_url_file = 'url'\n")
    give(url)
    with pytest.raises(ConfigError, match=f"{url}: {OPEN}: chown "):
        async with runstore.open(f"sqlite:///{tmp_path / 'runstore.db'}", config=config):
            raise AssertionError("it is open")


@pytest.mark.parametrize(
    ("group", "members", "refused"),
    [("ann", [], False), ("ann", ["ben"], True), ("users", [], True), (None, [], True)],
)
def test_a_group_may_write_a_folder_if_it_has_the_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str | None, members: list[str], refused: bool
) -> None:
    def named(number: int) -> SimpleNamespace:
        if group is None:
            raise KeyError(number)
        return SimpleNamespace(gr_name=group, gr_mem=members)

    monkeypatch.setattr(grp, "getgrgid", named)
    monkeypatch.setattr(files, "STATIC_IDS", 0)
    owner = SimpleNamespace(pw_name="ann", pw_gid=tmp_path.stat().st_gid)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: owner)
    tmp_path.chmod(0o770)
    assert is_writable_to_others(tmp_path) == refused


@pytest.mark.parametrize(
    ("members", "users", "refused"),
    [([], {}, False), ([], {"root": 0}, False), (["ben"], {}, True), ([], {"ben": 1234}, True)],
)
def test_a_group_of_the_system_may_write_a_folder_if_it_has_no_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[str], users: dict[str, int], refused: bool
) -> None:
    """Debian's /var/local and /usr/local belong to such a group."""
    group = tmp_path.stat().st_gid
    found = [SimpleNamespace(pw_name=name, pw_uid=id, pw_gid=group) for name, id in users.items()]
    monkeypatch.setattr(grp, "getgrgid", lambda number: SimpleNamespace(gr_name="staff", gr_mem=members))
    monkeypatch.setattr(pwd, "getpwall", lambda: found)
    monkeypatch.setattr(files, "STATIC_IDS", group + 1)
    tmp_path.chmod(0o2775)
    assert is_writable_to_others(tmp_path) == refused


@pytest.mark.parametrize(
    "command",
    [
        ["keys", "create", "--user", "ann"], ["keys", "list"], ["keys", "revoke", "x"],
        ["workers"], ["migrate"],
        ["retention", "--older-than", "1d"], ["retention", "--older-than", "1d", "--dry-run"],
        ["projections", "rebuild"], ["projections", "verify"], ["projections", "drop", "runs"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", mostly_slow(["file", "folder"], "file"))
def test_every_command_refuses_files_that_others_can_open(
    tmp_path: Path, command: list[str], place: str
) -> None:
    database = make_database(tmp_path / "runstore.db")
    remedy = f"chmod 600 {database}" if place == "file" else f"chmod go-w {tmp_path}"
    (database if place == "file" else tmp_path).chmod(0o646 if place == "file" else 0o777)
    url = ("--database-url", f"sqlite:///{database}")
    refused = call_command(*command, *url, folder=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert remedy in " ".join(refused.stderr.split())
    shared = call_command(*command, *url, folder=tmp_path, RUNSTORE_SHARED_FILES="true")
    assert "chmod" not in shared.stderr


def test_a_setting_in_the_environment_that_is_no_boolean_is_refused(tmp_path: Path) -> None:
    refused = call_command("keys", "list", folder=tmp_path, RUNSTORE_SHARED_FILES="maybe")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("runstore: RUNSTORE_SHARED_FILES: 'maybe' is not a valid boolean")


@pytest.mark.parametrize("name", mostly_slow(["database_url_file", "redis_url_file"], "redis_url_file"))
@pytest.mark.parametrize("command", mostly_slow(["serve", "worker"], "serve"))
def test_a_process_does_not_start_with_a_password_that_others_can_read(
    tmp_path: Path, command: str, name: str
) -> None:
    urls = {"database_url_file": "sqlite:///runstore.db", "redis_url_file": "redis://me:secret@127.0.0.1:1"}
    for file, url in urls.items():
        (tmp_path / file).write_text(url)
        (tmp_path / file).chmod(0o600)
    (tmp_path / name).chmod(0o640)
    config = (
        "[server]\nport = 0\ndatabase_url_file = 'database_url_file'\nredis_url_file = 'redis_url_file'\n"
    )
    (tmp_path / "runstore.toml").write_text(config)
    ended = subprocess.run(
        [sys.executable, "-m", "runstore", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 2
    assert f"`{name}`: {tmp_path / name}: {OPEN}: chmod 600" in ended.stderr
    assert "secret" not in ended.stderr


# Configuration files.

REDIS = "[server]\nredis_url = 'redis://:hunter2@127.0.0.1:1'"
SECRETS = [
    ("server.database_url", "[server]\ndatabase_url = 'postgresql+psycopg://me:hunter2@there/runs'"),
    ("server.database_url", "[server]\ndatabase_url = 'mysql+pymysql://there/runs?ssl_key_password=hunter2'"),
    ("server.redis_url", REDIS),
    (
        "agents.one.model_args.client_args.api_key",
        "[agents.one]\nmodel = 'openai'\n"
        "model_args = { model_id = 'm', client_args = { api_key = 'hunter2' } }",
    ),
    (
        "hierarchies.models.big.model_args.host",
        "[hierarchies.models.big]\nmodel = 'ollama'\n"
        "model_args = { model_id = 'm', host = 'http://me:hunter2@there' }",
    ),
]
HARMLESS = """
[server]
database_url = 'postgresql+psycopg://me@there/runs?sslmode=require'
redis_url = 'redis://127.0.0.1:1/0'
[agents.one]
model = 'ollama'
model_args = { model_id = 'qwen3:8b', host = 'http://127.0.0.1:11434', options = { num_ctx = 8192 } }
"""


async def warnings_at_start(config: Path) -> list[Any]:
    with capture_logs() as lines:
        async with runstore.open(f"sqlite:///{config.parent / 'runstore.db'}", config=config):
            return [line for line in lines if line["event"] == "configuration_open_to_others"]


@pytest.mark.parametrize(("setting", "text"), SECRETS)
async def test_a_configuration_with_a_secret_that_others_can_open_is_a_warning(
    tmp_path: Path, setting: str, text: str
) -> None:
    config = tmp_path / "runstore.toml"
    config.write_text(text)
    config.chmod(0o644)
    [line] = await warnings_at_start(config)
    assert line["log_level"] == "warning"
    assert line["file"] == str(config)
    assert line["settings"] == setting
    assert line["remedy"] == f"chmod g-w,o= {config}"
    assert "hunter2" not in str(line)
    subprocess.run(["sh", "-c", line["remedy"]], check=True)
    assert await warnings_at_start(config) == []


async def test_a_configuration_of_another_user_with_a_secret_is_a_warning(
    tmp_path: Path, give: Callable[[Path], None]
) -> None:
    config = tmp_path / "runstore.toml"
    config.write_text(SECRETS[0][1])
    config.chmod(0o600)
    give(config)
    settings = load_settings(config)
    with capture_logs() as lines:
        warn_of_open_secrets(settings)
    assert [line["remedy"] for line in lines] == [f"chown {pwd.getpwuid(os.geteuid()).pw_name} {config}"]


@pytest.mark.parametrize(
    ("mode", "warned"),
    [(0o600, False), (0o400, False), (0o640, False), (0o440, False), (0o660, True), (0o604, True)],
)
async def test_a_group_may_read_a_configuration_with_a_secret(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    config = tmp_path / "runstore.toml"
    config.write_text(REDIS)
    config.chmod(mode)
    assert bool(await warnings_at_start(config)) == warned


async def test_a_configuration_without_a_secret_may_be_open_to_others(tmp_path: Path) -> None:
    config = tmp_path / "runstore.toml"
    config.write_text(HARMLESS)
    config.chmod(0o644)
    assert await warnings_at_start(config) == []
