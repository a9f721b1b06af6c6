"""The configuration file is read strictly: every error names its line and its field."""

from pathlib import Path

import pytest

from runstore.core.errors import ConfigError
from runstore.projections.prices import Price
from runstore.settings import ServerSettings, load_settings, override

DEEP = "[" * 65 + "]" * 65
WRONG: list[tuple[str, int, list[str]]] = [  # text, line, what the message names
    ("[agents.a]\nmodel = 'scripted'\ntoken = 5\n", 3, ["[agents.a]", "`token`", "did you mean `tokens`?"]),
    ("[server]\nport = 1\nhots = '127.0.0.1'\n", 3, ["[server]", "`hots`", "`host`"]),
    ("[server]\nport = '8082'\n", 2, ["[server]", "port", "int"]),
    ("[server]\nport = 8082.5\n", 2, ["[server]", "port", "int"]),
    ("[server]\n\ncancel_grace_s = 0\n", 3, ["[server]", "`cancel_grace_s`", "0.1"]),
    ("[server]\nheartbeat_s = 60\n", 2, ["[server]", "`heartbeat_s`", "15"]),
    ("\n[sever]\nport = 1\n", 2, ["`sever`", "did you mean `server`?"]),
    ("[agents.a]\nmodel = 'scripted'\n[agents.b]\nmodell = 'scripted'\n", 4, ["[agents.b]", "`modell`"]),
    ("[agents.a]\nmodel = 'gpt'\n", 2, ["[agents.a]", "'gpt'", "scripted"]),
    ("[agents.a]\nfactory = 'no colon'\n", 2, ["[agents.a]", "'no colon'", "package.module:function"]),
    ("[agents.a]\nfactory = ''\n", 2, ["[agents.a]", "package.module:function"]),
    ("[agents.a]\nmodel = 'scripted'\ntools = ['a:b', 'c']\n", 3, ["[agents.a]", "'c'"]),
    ("[agents.a]\nmodel = 'scripted'\ntokens = 'many'\n", 3, ["[agents.a]", "tokens"]),
    ("[agents.a]\nmodel = 'scripted'\ntokens = -1\n", 3, ["[agents.a]", "`tokens`"]),
    ("[agents.a]\nmodel = 'scripted'\non_worker_lost = 'retry'\n", 3, ["on_worker_lost", "retry"]),
    ("[agents.a]\ncode = true\n", 2, ["[agents.a]", "'run-code'", "`code = true`"]),
    ("[agents.run-code]\nmodel = 'scripted'\n", 1, ["[agents.run-code]", "`code = true`"]),
    ("[agents.run-code]\ncode = true\nmodel = 'scripted'\n", 1, ["[agents.run-code]", "not both"]),
    ("[agents.run-code]\ncode = true\ncpu_limit_s = 0\n", 3, ["[agents.run-code]", "`cpu_limit_s`"]),
    ("[agents.run-code]\ncode = true\nopen_files_limit = 8\n", 3, ["`open_files_limit`", "16"]),
    ("[agents.run-code]\ncode = true\nisolation = 'thread'\n", 3, ["`isolation`", "process of its own"]),
    ("[agents.run-code]\ncode = true\non_worker_lost = 'resume'\n", 3, ["`on_worker_lost`"]),
    ("[agents.run-code]\ncode = true\nsystem_prompt = 'x'\n", 3, ["`system_prompt`", "`model`"]),
    ("[agents.run-code]\ncode = true\nmemory = 'session'\n", 3, ["`memory`", "no messages"]),
    ("[agents.a]\nmodel = 'scripted'\nprocess_limit = 5\n", 3, ["`process_limit`", "code = true"]),
    (
        "[agents.a]\nmodel = 'scripted'\noutput_schema = { type = 'objekt' }\n",
        3,
        ["`output_schema`", "'objekt'"],
    ),
    (f"[agents.a]\nmodel = 'openai'\nmodel_args = {{a = {DEEP}}}\n", 3, ["`model_args`", "too deep", "64"]),
    ("[agents.a]\ndescription = 'x'\n", 1, ["[agents.a]", "`model` or a `factory`"]),
    ("[agents.'a b']\nmodel = 'scripted'\n", 1, ["a b"]),
    ("[agents]\na = 'scripted'\n", 2, ["[agents]", "`a`"]),
    ("agents = 5\n", 1, ["agents"]),
    ("[prices.'m.1']\ninput = 1\noutputs = 2\n", 3, ["[prices.m.1]", "did you mean `output`?"]),
    ("[prices.m]\ninput = 1\n", 1, ["[prices.m]", "`output`"]),
    ("[prices.m]\ninput = -1\noutput = 2\n", 2, ["`input`", "from 0 to 1,000,000", "-1"]),
    ("[prices.m]\ninput = nan\noutput = 2\n", 2, ["`input`", "nan"]),
    ("[prices.m]\ninput = '1'\noutput = 2\n", 2, ["[prices.m]", "input"]),
    ("[prices.m]\ninput = 1\noutput = 2\ncurrency = 'euro'\n", 4, ["`currency`", "'USD'"]),
    ("[prices.m]\ninput = 1\noutput = 2\nfrom-date = 'soon'\n", 4, ["[prices.m]", "from-date"]),
    ("[prices.m]\ninput = 1\noutput = 2\nfrom_date = 2026-01-01\n", 4, ["did you mean `from-date`?"]),
    (
        "[[prices.m]]\ninput = 1\noutput = 2\n[[prices.m]]\ninput = 1\noutput = 2\ncache_read = -1\n",
        7,
        ["[prices.m]", "`cache_read`"],
    ),
    ("[[prices.m]]\ninput = 1\noutput = 2\n[[prices.m]]\ninput = 1\noutput = 2\n", 4, ["`from-date`"]),
    (
        "[prices.m]\ninput = 1\noutput = 2\n[prices.n]\ninput = 1\noutput = 2\ncurrency = 'EUR'\n",
        7,
        ["[prices.n]", "EUR", "prices.m is in USD"],
    ),
    ("[prices.m]\ninput = 1\noutput = 2\n[prices.gpt-5.1]\ninput = 1\n", 4, ["quotes", '[prices."gpt-5.1"]']),
    ("[[prices.gpt-5.1]]\ninput = 1\noutput = 2\n", 1, ["quotes", '[prices."gpt-5.1"]']),
    ("[prices.a.b.c]\ninput = 1\noutput = 2\n", 1, ['[prices."a.b.c"]']),
    ("[prices.m]\ninput = inf\noutput = 2\n", 2, ["`input`", "inf"]),
    ("[prices.m]\ninput = true\noutput = 2\n", 2, ["input", "bool"]),
    (f"[prices.m]\ninput = 1{'0' * 400}\noutput = 2\n", 2, ["input", "out of range"]),
    ("[prices.m]\ninput = 1\noutput = 2\nfrom-date = '2026-13-01'\n", 4, ["from-date", "date"]),
    ("[prices.m]\ninput = 1\noutput = 2\nfrom-date = 2026-01-01T10:00:00Z\n", 4, ["from-date", "datetime"]),
    ("[prices.m]\ninput = 1\noutput = 2\ncurrency = 5\n", 4, ["currency", "int"]),
    ("[prices.'']\ninput = 1\noutput = 2\n", 1, ["[prices]", "1 to 128 characters"]),
    ("[price.m]\ninput = 1\noutput = 2\n", 1, ["`price`", "did you mean `prices`?"]),
    ("[prices]\nm = 5\n", 2, ["`m` must be a table", "[prices.m]"]),
    ("[prices]\nm = []\n", 2, ["`m` must be a table"]),
    ("[hierarchies]\nmodell = 'x'\n", 2, ["[hierarchies]", "did you mean `model`?"]),
    ("[hierarchies]\nmodel = 'x'\n", 2, ["[hierarchies]", "'x'", "scripted"]),
    ("[hierarchies]\ntools = { a = 'b' }\n", 2, ["[hierarchies]", "package.module:function"]),
    ("[hierarchies.models.a]\nmodel = 'gpt'\n", 1, ["hierarchies", "'gpt'"]),
]


@pytest.mark.parametrize(("text", "line", "words"), WRONG)
def test_an_error_is_named_with_its_line_and_field(
    tmp_path: Path, text: str, line: int, words: list[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [("[server\n", "line 1"), ("[server]\nport = \n", "line 2"), (f"a = {'[' * 5_000}", "too deep")],
)
def test_invalid_toml_is_named_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=place):
        load_settings(path)


def test_a_model_of_hierarchies_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[hierarchies.models.fast]\nmodel = 'ollama'\n")
    assert load_settings(path).hierarchies.models["fast"].model == "ollama"
    with pytest.raises(ConfigError, match=rf"{path}:2: \[hierarchies.models.fast\]: .*model_id"):
        load_settings(path, models=True)


def test_a_model_has_one_price_or_several_with_their_days(tmp_path: Path) -> None:
    file = tmp_path / "runstore.toml"
    file.write_text(
        "[prices.'openai/gpt-5']\ninput = 1.25\noutput = 10\ncache_read = 0.125\n"
        "[[prices.m]]\ninput = 3\noutput = 5\nfrom-date = 2026-02-01\n"
        "[[prices.m]]\ninput = 2\noutput = 5\n"
    )
    prices = load_settings(file).prices
    assert prices.of("openai/gpt-5", "2020-01-01") == Price(input=1.25, output=10, cache_read=0.125)
    assert [getattr(prices.of("m", day), "input", None) for day in ("2026-01-31", "2026-02-01")] == [2, 3]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_settings(tmp_path / "none.toml")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    path, url = tmp_path / "runstore.toml", tmp_path / "url"
    path.write_text(f"[server]\nport = 1\ndatabase_url_file = '{url}'\n", encoding="utf-8-sig")
    url.write_text("sqlite:///a.db\n", encoding="utf-8-sig")
    server = load_settings(path).server
    assert (server.port, server.database_url) == (1, "sqlite:///a.db")


@pytest.mark.parametrize("setting", ["the file itself", "database_url_file"])
def test_a_file_without_an_end_is_an_error(tmp_path: Path, setting: str) -> None:
    path = Path("/dev/zero")
    if setting == "database_url_file":
        path = tmp_path / "runstore.toml"
        path.write_text("[server]\ndatabase_url_file = '/dev/zero'\n")
    with pytest.raises(ConfigError, match="/dev/zero: cannot be read: it has more than 4,194,304 characters"):
        load_settings(path)


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_settings(path)


def test_without_a_file_everything_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None)
    assert settings.server == ServerSettings()
    assert settings.agents == {}


def test_the_file_of_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runstore.toml").write_text("[server]\ncapacity = 7\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings(None).server.capacity == 7
    assert load_settings(None).folder == tmp_path


def test_an_override_replaces_only_the_given_settings() -> None:
    settings = override(ServerSettings(port=1, capacity=2), {"port": 3, "capacity": None})
    assert (settings.port, settings.capacity) == (3, 2)


def test_an_override_out_of_bounds_is_an_error() -> None:
    with pytest.raises(ConfigError, match="`capacity` must be from 1"):
        override(ServerSettings(), {"capacity": 0})
