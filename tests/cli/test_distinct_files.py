"""No two settings may name one file."""

import os
from pathlib import Path

import pytest

from runstore.cli.distinct_files import check_distinct
from runstore.core.errors import ConfigError
from runstore.settings import load_settings
from tests.kit.command_line import call_command


@pytest.mark.parametrize(
    "file",
    [
        "a.db", "./a.db", "sub/../a.db", "a.db-wal", "a.db-shm", "a.db-journal", "a.db.workers/w.lock",
        "runstore.toml", "url", "link", "hard",
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [False, True], ids=["before the first start", "later"])
def test_a_log_file_of_another_setting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, there: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    Path("a.db.workers").mkdir()
    Path("url").write_text("redis://127.0.0.1\n")
    if there or file == "hard":
        for name in ("a.db", "a.db-wal", "a.db-shm", "a.db-journal", "a.db.workers/w.lock"):
            Path(name).touch()
        os.link("a.db", "hard")
    os.symlink("a.db", "link")
    Path("runstore.toml").write_text(
        f'[server]\ndatabase_url = "sqlite:///a.db"\nredis_url_file = "url"\nlog_file = "{file}"\n'
    )
    with pytest.raises(ConfigError, match="is also the file of ") as refused:
        check_distinct(load_settings(None))
    assert refused.value.setting == "log_file"


def test_other_files_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runstore.toml").write_text('[server]\ndatabase_url = "sqlite:///a.db"\nlog_file = "a.db.log"\n')
    check_distinct(load_settings(None))
    check_distinct(load_settings(None).overridden({"database_url": "postgresql://host/a.db"}))
    check_distinct(load_settings(None).overridden({"database_url": "nonsense", "log_file": "/dev/null"}))


def test_files_that_are_only_read_may_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("url").write_text("postgresql://host/a\n")
    Path("runstore.toml").write_text(
        '[server]\ndatabase_url_file = "url"\ndatabase_read_url_file = "url"\nlog_file = "a.log"\n'
    )
    check_distinct(load_settings(None))


def test_a_log_file_that_keeps_nothing_may_be_the_configuration(tmp_path: Path) -> None:
    check_distinct(load_settings(Path("/dev/null")).overridden({"log_file": "/dev/null"}))


def test_a_database_is_not_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runstore.toml").touch()  # which SQLite would take for a new database
    settings = load_settings(None).overridden({"database_url": "sqlite:///runstore.toml"})
    with pytest.raises(ConfigError, match=r"runstore\.toml is also the file of the configuration"):
        check_distinct(settings)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_process_does_not_start_with_one(tmp_path: Path, command: str) -> None:
    done = call_command(command, "--log-file=runstore.db", folder=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr == (
        "runstore: runstore.db is also the file of `database_url`: give each a file of its own\n"
    )
