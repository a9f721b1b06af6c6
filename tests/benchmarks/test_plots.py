"""The plots that are drawn from what benchmarks write."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_tables_of_benchmarks_become_plots(tmp_path: Path) -> None:
    sizes = ["10,000 events", "100,000 events", "1,000,000 events"]
    growth = {
        "title": "A log that grows, on SQLite: medians of 40 requests, in ms",
        "columns": ["", *sizes, "last to 100,000"],
        "rows": [
            ["a start, to its answer", "10.1", "11.0", "12.0", "1.09"],
            ["an append of a note", "2.0", "2.1", "2.2", "1.05"],
            ["GET /runs", "5.0", "5.0", "5.5", "1.10"],
            ["replay of a run with 100 events", "3.0", "3.0", "3.0", "1.00"],
        ],
    }
    append = {
        "title": "Appends of running agents (SQLite; group commit)",
        "rows": [["1", "9,000", "1 ms", "2 ms"], ["2,000", "60,000", "1 ms", "2 ms"]],
    }
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"growth": [growth], "append": [append]}))
    command = [sys.executable, "-m", "benchmarks.plots", results, tmp_path]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [Path(line).name for line in said.splitlines()] == ["growth-sqlite.svg", "tokens-sqlite.svg"]
    lines = ElementTree.parse(tmp_path / "growth-sqlite.svg").findall(f"{SVG}polyline")
    assert [len((line.get("points") or "").split()) for line in lines] == [3, 3, 3, 3]
    texts = [text.text for text in ElementTree.parse(tmp_path / "growth-sqlite.svg").iter(f"{SVG}text")]
    assert {"GET /runs", "1 million", "ms"} <= {*texts}
