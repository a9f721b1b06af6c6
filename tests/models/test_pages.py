"""The statements of docs/how-to/models.md and docs/how-to/from-fastapi-redis.md hold for the code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import runstore.runtime.strands.errors as strands_errors
import runstore.runtime.strands.models as strands_models
from runstore import AgentSpec
from runstore.core import content
from tests.kit.server import serving
from tests.kit.slow import mostly_slow
from tests.models.standins import ModelServer

ROOT = Path(__file__).parents[2]
MODELS = (ROOT / "docs" / "how-to" / "models.md").read_text()
MOVING = (ROOT / "docs" / "how-to" / "from-fastapi-redis.md").read_text()
KEYS = ("ANTHROPIC", "OPENAI", "GOOGLE", "MISTRAL", "WRITER", "LLAMA", "GROQ")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S)


def rows(page: str, heading: str) -> list[list[str]]:
    text = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:3] == "| `"
    ]


EXAMPLES = {
    f"{name}": table
    for block in blocks(MODELS, "toml")
    for name, table in tomllib.loads(block)["agents"].items()
}


def test_every_provider_is_in_the_table_with_what_it_needs() -> None:
    listed = {row[0].strip("`"): row for row in rows(MODELS, "Providers")}
    assert listed.keys() == strands_models.PROVIDERS.keys()
    for name, provider in strands_models.PROVIDERS.items():
        extra = provider.install.removeprefix("runstore").strip("[]")
        assert listed[name][1] == (f"`{extra}`" if extra else "none"), name
        assert provider.needs <= set(re.findall(r"`(\w+)`", listed[name][2])), name


def test_every_provider_has_an_example() -> None:
    assert {table["model"] for table in EXAMPLES.values()} == strands_models.PROVIDERS.keys()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of providers' own packages
@pytest.mark.parametrize("name", mostly_slow(EXAMPLES, "claude"))
def test_an_examples_model_can_be_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or its import asks the network for prices
    for key in KEYS:
        monkeypatch.setenv(f"{key}_API_KEY", "k")
    spec = msgspec.convert(EXAMPLES[name], AgentSpec)
    strands_models.build_model(spec.model or "", spec.model_args)


def test_every_code_of_a_models_failure_is_in_the_table() -> None:
    told = strands_errors
    tables: list[dict[Any, str]] = [
        told.CODES, told.STATUS_CODES, told.KIND_CODES, told.CLASS_CODES,
    ]  # fmt: skip
    codes = {code for table in tables for code in table.values()}
    listed = {row[0].strip("`") for row in rows(MODELS, "When a model fails")}
    others = {"model_error", "model_refused", "invalid_input", "timeout", "too_many_model_calls"}
    assert listed == codes | others


@pytest.mark.parametrize(
    ("kind", "cls"), [("image", content.Image), ("document", content.Document), ("video", content.Video)]
)
def test_every_format_of_a_content_block_is_in_the_table(kind: str, cls: type[msgspec.Struct]) -> None:
    cells = {row[0].strip("`"): row[1] for row in rows(MODELS, "Images, documents and videos")}
    said = set(re.findall(r"`(\w+)`", cells[kind]))
    fields = {field.name: field.type for field in msgspec.structs.fields(cls)}
    assert said == fields.keys() | set(fields["format"].__args__)


def test_the_json_of_an_input_is_one() -> None:
    (example,) = blocks(MODELS, "json")
    msgspec.convert(msgspec.json.decode(example)["input"], content.Input)


@pytest.mark.slow
def test_the_move_to_runstore_works_as_it_is_written(
    tmp_path: Path, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config,) = blocks(MOVING, "toml")
    _by_hand, tool, follow = blocks(MOVING, "python")
    (tmp_path / "chat_tools.py").write_text(tool)
    namespace: dict[str, Any] = {}
    exec(follow, namespace)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{models.url}/v1")
    with serving(tmp_path, config) as server:
        base, run_id = str(server.http.base_url), server.begin("chat", "What is 19 + 23?")
        events = list(namespace["follow"](base, run_id))
        assert [event["type"] for event in events][-1] == "lifecycle.completed"
        assert events[-1]["data"]["result"]["text"] == "The tool said 42"
        assert list(namespace["follow"](base, run_id, after=7)) == events[7:]
        assert list(namespace["follow"](base, run_id, after=len(events))) == []
        assert server.record(run_id, at=7)["last_seq"] == 7
        assert server.events(run_id) == events
