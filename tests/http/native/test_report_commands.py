"""`runstore audit …`: reports as tables, JSON, CSV and Parquet."""

import csv
import json
from pathlib import Path
from subprocess import CompletedProcess

import duckdb
import pytest

from runstore.cli import tables
from runstore.cli.output import SHOWN_ROWS
from runstore.client import calls
from tests.http.native.test_reports import ask, reported
from tests.kit.command_line import call_command
from tests.kit.database import make_database
from tests.kit.polling import until
from tests.kit.server import ServerProcess


def audit(server: ServerProcess, folder: Path, *arguments: str) -> "CompletedProcess[str]":
    return call_command("audit", *arguments, "--url", str(server.http.base_url), folder=folder)


async def test_runs_are_a_table_json_csv_or_parquet(server: ServerProcess, tmp_path: Path) -> None:
    session = await reported(server)
    (expected,) = ask(server.http, "/audit/runs", session_id=session)["data"]
    asked = ("runs", "--session-id", session)
    table = audit(server, tmp_path, *asked)
    assert (table.returncode, table.stderr) == (0, "")
    assert table.stdout.split()[:3] == ["RUN", "USER", "AGENT"]
    assert expected["run_id"] in table.stdout
    assert json.loads(audit(server, tmp_path, *asked, "--json").stdout) == expected
    assert audit(server, tmp_path, *asked, "--csv", "runs.csv").returncode == 0
    (row,) = csv.DictReader((tmp_path / "runs.csv").read_text().splitlines())
    assert (row["run_id"], row["tokens"]) == (expected["run_id"], str(expected["tokens"]))
    written = audit(server, tmp_path, *asked, "--parquet", "runs.parquet")
    assert (written.returncode, written.stderr) == (0, "")
    with duckdb.connect() as connection:
        file = str(tmp_path / "runs.parquet")
        found = connection.execute("SELECT run_id, tokens + 1, unpriced, cost FROM read_parquet(?)", [file])
        assert found.fetchall() == [(expected["run_id"], expected["tokens"] + 1, True, 0.0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.csv", "runs.parquet"]


async def test_usage_tools_and_hits_are_printed(server: ServerProcess, tmp_path: Path) -> None:
    session = await reported(server)
    usage = audit(server, tmp_path, "usage", "--group", "user,model", "--csv", "-")
    assert usage.stdout.splitlines()[0].startswith("user_id,model,runs,succeeded")
    assert "scripted" in usage.stdout
    assert audit(server, tmp_path, "tools", "--tool", "nothing").stdout.split()[:2] == ["AGENT", "TOOL"]
    by_day = audit(server, tmp_path, "tools", "--group", "day,tool", "--csv", "-")
    assert by_day.stdout.splitlines()[0] == "day,tool,calls,failures,mean_ms,p50_ms,p95_ms"
    run_id = ask(server.http, "/audit/runs", session_id=session)["data"][0]["run_id"]
    await until(lambda: "zebra" in audit(server, tmp_path, "search", "zebra", "--run", run_id).stdout)
    hits = audit(server, tmp_path, "search", '"zebra crossing"', "--run", run_id, "--json").stdout
    assert json.loads(hits.splitlines()[-1])["snippet"] == "zebra crossing ahead"
    past = ("--until", "2020-01-01T00:00:00Z", "--json")
    assert audit(server, tmp_path, "search", "zebra", "--run", run_id, *past).stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("runs", "--json", "--csv", "x"), 2, "one of --json, --csv and --parquet"),
        (("usage", "--group", "week"), 2, "group must have some of day, user, agent, model"),
        (("tools", "--group", "week"), 2, "group must have some of day, agent, tool"),
        (("search", "zebra", "--since", "yesterday"), 2, "since='yesterday'"),
        (("search", "?"), 2, "letter or digit"),
        (("events", "--types", "foo.bar"), 2, "foo.bar"),
        (("events", "--follow", "--types", "foo.bar"), 2, "foo.bar"),
        (("events", "--run", "nonsense"), 2, "must be a UUID"),
        (("runs", "--since", "yesterday"), 2, "since='yesterday'"),
        (("tools", "--since", "yesterday"), 2, "since='yesterday'"),
        (("runs", "--min-cost", "much"), 2, "an amount such as 0.25"),
        (("runs", "--csv", "missing/runs.csv"), 2, "missing/runs.csv: cannot be written"),
    ],
)
def test_a_wrong_question_is_refused_with_its_reason(
    server: ServerProcess, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    refused = audit(server, tmp_path, *arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert says in " ".join(refused.stderr.replace("│", " ").split())


@pytest.mark.parametrize("form", ["--csv", "--parquet"])
def test_a_file_does_not_replace_a_database(server: ServerProcess, tmp_path: Path, form: str) -> None:
    make_database(tmp_path / "runstore.db")
    before = (tmp_path / "runstore.db").read_bytes()
    refused = audit(server, tmp_path, "runs", form, "runstore.db")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "runstore.db: is a database, which is not replaced" in refused.stderr
    assert (tmp_path / "runstore.db").read_bytes() == before


def test_events_are_printed_as_over_http(server: ServerProcess, closed_run: str, tmp_path: Path) -> None:
    expected = server.http.get("/audit/events", params={"run_id": closed_run}).json()["data"]
    asked = ("events", "--run", closed_run)
    assert [
        json.loads(line) for line in audit(server, tmp_path, *asked, "--json").stdout.splitlines()
    ] == expected
    rows = list(csv.DictReader(audit(server, tmp_path, *asked, "--csv", "-").stdout.splitlines()))
    assert [(row["position"], json.loads(row["data"])) for row in rows] == [
        (str(event["position"]), event["data"]) for event in expected
    ]
    heading, *lines = audit(
        server, tmp_path, *asked, "--types", "lifecycle.*", "--limit", "2"
    ).stdout.splitlines()
    assert heading.split() == ["POSITION", "AT", "USER", "AGENT", "RUN", "SEQ", "TYPE", "BY", "DATA"]
    assert [line.split()[6] for line in lines] == ["lifecycle.queued", "lifecycle.started"]
    refused = audit(server, tmp_path, "events", "--types", "llm.nothing")
    assert (refused.returncode, "unknown event type" in refused.stderr) == (2, True)


@pytest.fixture
def long_run(server: ServerProcess) -> str:
    """A run with more events than a table shows."""
    run_id = server.begin_silent()
    notes = [{"type": "custom.note", "data": {"number": number}} for number in range(SHOWN_ROWS + 50)]
    server.http.post(f"/runs/{run_id}/events", json={"events": notes}).raise_for_status()
    server.stop_run(run_id)
    return run_id


def test_an_export_has_all_that_matches_page_by_page(
    server: ServerProcess, long_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls._page, "__defaults__", ("after", 70))
    monkeypatch.setattr(tables, "BATCH_CHARACTERS", 5_000)
    expected = server.http.get("/audit/events", params={"run_id": long_run, "limit": 1_000}).json()["data"]
    assert len(expected) > SHOWN_ROWS
    positions = [event["position"] for event in expected]
    asked = ("events", "--run", long_run)
    lines = audit(server, tmp_path, *asked, "--json").stdout.splitlines()
    assert [json.loads(line)["position"] for line in lines] == positions
    assert audit(server, tmp_path, *asked, "--csv", "events.csv").returncode == 0
    rows = csv.DictReader((tmp_path / "events.csv").read_text().splitlines())
    assert [int(row["position"]) for row in rows] == positions
    assert audit(server, tmp_path, *asked, "--parquet", "events.parquet").returncode == 0
    with duckdb.connect() as connection:
        found = connection.execute("SELECT position FROM read_parquet(?)", [str(tmp_path / "events.parquet")])
        assert [position for (position,) in found.fetchall()] == positions
    some = audit(server, tmp_path, *asked, "--json", "--limit", "80").stdout.splitlines()
    assert [json.loads(line)["position"] for line in some] == positions[:80]


def test_a_table_that_was_cut_says_so(
    server: ServerProcess, long_run: str, closed_run: str, tmp_path: Path
) -> None:
    cut = audit(server, tmp_path, "events", "--run", long_run)
    assert len(cut.stdout.splitlines()) == 1 + SHOWN_ROWS
    assert cut.stderr == (
        "these are the first 100 rows: --limit N shows more, --json, --csv or --parquet all\n"
    )
    for limit in (10, 1_000):
        asked_for = audit(server, tmp_path, "events", "--run", long_run, "--limit", str(limit))
        assert (len(asked_for.stdout.splitlines()) - 1 <= limit, asked_for.stderr) == (True, "")
    assert audit(server, tmp_path, "events", "--run", closed_run).stderr == ""


async def test_every_list_has_all_for_a_program_and_says_what_it_left_out_for_people(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [await reported(server) for _ in range(2)]
    lists = {
        "runs": ask(server.http, "/audit/runs", limit=1_000),
        "search zebra": ask(server.http, "/audit/search", text="zebra", limit=1_000),
    }
    assert sessions
    monkeypatch.setattr(tables, "SHOWN_ROWS", 1)
    for words, expected in lists.items():
        everything = audit(server, tmp_path, *words.split(), "--json").stdout.splitlines()
        assert [json.loads(line)["run_id"] for line in everything] == [
            row["run_id"] for row in expected["data"]
        ]
        table = audit(server, tmp_path, *words.split())
        assert len(table.stdout.splitlines()) == 2
        assert table.stderr.startswith("these are the first 1 rows: --limit N shows more")
