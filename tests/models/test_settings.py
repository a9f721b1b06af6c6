"""A model that cannot be made stops the start: exit 2, with the file, the line and the field."""

from pathlib import Path

import pytest

from runstore.core.errors import ConfigError
from runstore.runtime.strands.models import PROVIDERS, build_model
from tests.kit.command_line import call_command
from tests.kit.server import run_command

KEY = {"client_args": {"api_key": "k"}}
ARGUMENTS = {  # as little as each provider takes
    "anthropic": {"model_id": "m", "max_tokens": 10, **KEY},
    "bedrock": {"model_id": "m", "region_name": "us-east-1"},
    "gemini": {"model_id": "m", **KEY},
    "litellm": {"model_id": "openai/m", **KEY},
    "llamaapi": {"model_id": "m", **KEY},
    "llamacpp": {},
    "mistral": {"model_id": "m", "api_key": "k"},
    "ollama": {"model_id": "m"},
    "openai": {"model_id": "m", **KEY},
    "openai_responses": {"model_id": "m", **KEY},
    "sagemaker": {
        "endpoint_config": {"endpoint_name": "e", "region_name": "us-east-1"},
        "payload_config": {"max_tokens": 10},
    },
    "writer": {"model_id": "m", **KEY},
}  # fmt: skip
MISTAKES = [
    ("model_args = { model = 'talks' }", "model_id", 3),
    ("model_args = { model_id = 'talks', temprature = 1 }", "temprature", 3),
    ("", "model_id", 2),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of providers' own packages
@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_is_made_with_what_the_docs_say_it_needs(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or its import asks the network for prices
    model = build_model(provider, ARGUMENTS[provider])
    assert type(model).__name__ == PROVIDERS[provider].cls
    for needed in PROVIDERS[provider].needs:
        without = {name: value for name, value in ARGUMENTS[provider].items() if name != needed}
        with pytest.raises(ConfigError, match=needed):
            build_model(provider, without)


def test_a_cache_configuration_is_a_table() -> None:
    model = build_model("openai", {**ARGUMENTS["openai"], "cache_config": {"cache_key": "mine"}})
    assert model.get_config()["cache_config"].cache_key == "mine"  # type: ignore[index]
    with pytest.raises(ConfigError, match="colour"):
        build_model("openai", {**ARGUMENTS["openai"], "cache_config": {"colour": "red"}})


def test_arguments_that_only_code_can_give_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes no argument client;"):
        build_model("openai", {"model_id": "m", "client": "mine"})


@pytest.mark.parametrize(("setting", "named", "line"), MISTAKES)
def test_a_wrong_model_stops_the_start_at_its_line(
    tmp_path: Path, setting: str, named: str, line: int
) -> None:
    (tmp_path / "runstore.toml").write_text(f"[agents.mine]\nmodel = 'openai'\n{setting}\n")
    done = call_command("serve", "--port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert f"runstore.toml:{line}: [agents.mine]: " in done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runstore.db").exists()


@pytest.mark.slow
def test_a_package_that_is_missing_is_named_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text(
        "[agents.mine]\nmodel = 'ollama'\nmodel_args = { model_id = 'm' }\n"
    )
    (tmp_path / "ollama.py").write_text("raise ModuleNotFoundError(\"No module named 'ollama'\")\n")
    done = run_command("serve", "--port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "runstore.toml:3: [agents.mine]: " in done.stderr
    assert "pip install 'runstore[ollama]'" in done.stderr
