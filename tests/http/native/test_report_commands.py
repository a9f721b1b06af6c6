"""`runstore audit …`: reports as tables, JSON, CSV and Parquet."""

import csv
import json
from pathlib import Path
from subprocess import CompletedProcess

import duckdb
import pytest

from tests.http.native.test_reports import ask, reported
from tests.kit.command_line import call_command
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
    run_id = ask(server.http, "/audit/runs", session_id=session)["data"][0]["run_id"]
    await until(lambda: "zebra" in audit(server, tmp_path, "search", "zebra", "--run", run_id).stdout)
    hits = audit(server, tmp_path, "search", '"zebra crossing"', "--run", run_id, "--json").stdout
    assert json.loads(hits.splitlines()[-1])["snippet"] == "zebra crossing ahead"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("runs", "--json", "--csv", "x"), 2, "one of --json, --csv and --parquet"),
        (("usage", "--group", "week"), 1, "group must have some of day, user, agent, model"),
        (("search", "?"), 1, "letter or digit"),
        (("runs", "--csv", "missing/runs.csv"), 2, "missing/runs.csv: cannot be written"),
    ],
)
def test_a_wrong_question_is_refused_with_its_reason(
    server: ServerProcess, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    refused = audit(server, tmp_path, *arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert says in " ".join(refused.stderr.replace("│", " ").split())


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
    assert (refused.returncode, "unknown event type" in refused.stderr) == (1, True)
