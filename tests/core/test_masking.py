"""What looks like a key does not stand in what people read."""

import pytest

from runstore.core.masking import without_keys

KEYS = (
    "Incorrect API key provided: sk-proj-abcdEFGH1234. You can find it at https://x.y/keys",
    "Incorrect API key provided: abcdefgh",
    "invalid x-api-key: 0123456789abcdef",
    "401 for Authorization: Bearer abc.def-ghi",
    "{'api_key': 'topsecretvalue', 'model': 'm'}",
    "The security token included in the request is invalid: AKIAIOSFODNN7EXAMPLE",
    "https://user:hunter2pass@proxy.example/v1 refused",
    "url https://host/v1?key=AIzaSyA1234567890abcdefghijk",
    "password=hunter2pass",
    "jwt eyJhbGciOi.eyJzdWIiOiIx.c2lnbmF0dXJl expired",
    "key wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY is bad",
)
SECRETS = (
    "sk-proj", "abcdefgh", "0123456789abcdef", "abc.def", "topsecret", "AKIA", "hunter2", "AIza", "hunter2",
    "eyJ", "wJalr",
)  # fmt: skip
HARMLESS = (
    "ValueError: boom", "out of paper", "model gpt-4.1-mini-2025-04-14 does not exist",
    "run 0198c0de-0000-7000-8000-000000000001 ended", "rate limit reached: 30000 tokens per min",
    "max_tokens: 8192 is too large", "connection to http://127.0.0.1:8080/v1 refused", "the token limit is 4",
)  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), [*zip(KEYS, SECRETS, strict=True)])
def test_a_key_is_masked(text: str, secret: str) -> None:
    masked = without_keys(text)
    assert secret not in masked
    assert "***" in masked


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_key_stays(text: str) -> None:
    assert without_keys(text) == text
