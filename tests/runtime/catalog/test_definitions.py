"""A run keeps its agent's settings without possible secrets."""

import json
from typing import Any

import pytest

from runstore import AgentSpec
from runstore.core.definitions import SET
from runstore.runtime.catalog.agents import AgentCatalog

SECRET = "hunter2"
NAMES = [
    "accessToken", "authToken", "sessionToken", "passphrase", "pwd", "auth", "jwt", "X-Auth", "api_key",
    "apiKey", "token", "key", "base_url", "host", "client_args", "headers", "default_headers", "extra", "",
]  # fmt: skip
HOLDERS: list[Any] = [
    SECRET,
    [SECRET],
    {"inner": SECRET},
    [{"temperature": SECRET}],
    {"temperature": [[SECRET]]},
]
URLS = [
    "https://ann:hunter2@host/path", "https://ann:hunt/er2@host", "https://:hunter2/@host", "redis://hunter2@host",
    "postgresql+psycopg://ann:a@hunter2@host/db", "see https://ann:a?hunter2@host",
]  # fmt: skip


def definition(**settings: Any) -> dict[str, Any]:
    return AgentCatalog({"mine": AgentSpec(model="openai", **settings)}).definition("mine")


@pytest.mark.parametrize("name", NAMES)
def test_a_models_argument_is_kept_only_if_its_name_is_harmless(name: str) -> None:
    for value in HOLDERS:
        for arguments in ({name: value}, {"params": {name: value}}, {"params": {"thinking": {name: value}}}):
            kept = definition(model_args=arguments)
            assert SECRET not in json.dumps(kept)
            assert SET in json.dumps(kept["model_args"])


def test_harmless_values_are_kept_unchanged() -> None:
    arguments = {
        "model_id": "gpt-5", "streaming": True, "stop_sequences": ["a", "b"],
        "params": {"temperature": 0.2, "max_tokens": 100, "top_p": None, "reasoning": {"budget_tokens": 7}},
    }  # fmt: skip
    assert definition(model_args=arguments)["model_args"] == arguments


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_kept_without_user_and_password(url: str) -> None:
    for settings in (
        {"system_prompt": f"use {url} for it"},
        {"description": url},
        {"model_args": {"model_id": url, "stop": [url]}},
    ):
        assert SECRET not in json.dumps(definition(**settings)).replace("hunt/er2", SECRET)


@pytest.mark.parametrize("text", ["https://host/@ann", "ann@host", "a://b c@d", "https://host/path"])
def test_a_text_without_credentials_is_kept_as_it_is(text: str) -> None:
    assert definition(system_prompt=text)["system_prompt"] == text
