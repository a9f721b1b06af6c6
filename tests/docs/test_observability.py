"""docs/reference/observability.md names every metric and every attribute of a span, and no other."""

import ast
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runstore.app import Runtime, open_runtime
from runstore.core.events import Outcome
from runstore.database.dialects import Replicated
from runstore.database.opening import dialect_of
from runstore.database.replica import Replica
from runstore.runtime.attempts import spans
from runstore.settings import ServerSettings, Settings
from tests.projections.examples import Totals

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "observability.md").read_text(encoding="utf-8")


def rows(title: str) -> list[list[str]]:
    """The cells of the tables below a heading."""
    text = re.split(r"^## ", PAGE, flags=re.M)
    section = next(part for part in text if part.startswith(f"{title}\n"))
    return [
        [cell.strip() for cell in line.strip("|").split(" |")]
        for line in section.splitlines()
        if line[:2] == "| "
    ]


def marked(text: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", text)


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    url = f"sqlite:///{tmp_path}/runstore.db"
    unreached = "redis://127.0.0.1:1"
    server = ServerSettings(database_url=url, redis_url=unreached, agent_processes=1, drain_s=0)
    async with open_runtime(Settings(server, projections=(Totals(),))) as runtime:
        postgres = cast(Replicated, dialect_of("postgresql+psycopg://127.0.0.1:1/unreached"))
        runtime.database.replica = Replica(postgres, postgres)
        yield runtime


async def test_every_metric_is_described_with_its_type_and_labels(runtime: Runtime) -> None:
    described = {marked(row[0])[0]: (row[1], row[2]) for row in rows("Metrics") if marked(row[0])}
    exposed = {}
    for family in text_string_to_metric_families(runtime.metrics.expose("")[0].decode()):
        if family.name.startswith("runstore_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {
                label: value for s in family.samples for label, value in s.labels.items() if label != "le"
            }
            values = {
                value
                for s in family.samples
                for label, value in s.labels.items()
                if label not in ("le", "projection")
            }
            exposed[name] = (family.type, set(labels) | (values if "version" not in labels else set()))
    assert {name: (kind, set(marked(labels))) for name, (kind, labels) in described.items()} == exposed


def test_every_attribute_of_a_span_is_described() -> None:
    source = ast.parse(Path(spans.__file__).read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant)}
    written = {text for text in texts if isinstance(text, str) and re.fullmatch(r"runstore\.\w+", text)}
    assert {name for row in rows("Spans") for name in marked(row[0])} == written


def test_every_status_of_a_span_is_described() -> None:
    (row,) = (row for row in rows("Spans") if row[0] == "`runstore.status`")
    assert set(marked(row[1])) == {*get_args(Outcome), "handed_over", "lost"}
