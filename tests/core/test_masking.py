"""Text that looks like a key is masked wherever people read it."""

import pytest

from runstore.core.masking import MAX_TEXT, without_keys

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
    "key wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY is bad",
    "pwd=hunter2pass",
    "passcode: 84213377",
    "auth: hunter2pass",
    "X-Auth: hunter2pass",
    "jwt: hunter2pass",
    "cookie: theme=dark; sid=hunter2pass",
    "accessToken=hunter2pass",
    "passphrase: hunter2pass",
    '{"password": "my own hunter2 pass"}',
    r"{\"pwd\": \"hunter2pass\"}",
    "https://user:hunt/er2@pass@proxy.example/v1 refused",
    "see http://a/b,http://user:hunter2@proxy/ there",
    "private_key=hunter2pass",
    "Ocp-Apim-Subscription-Key: hunter2pass",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hunter2==;EndpointSuffix=x",
    "{'signingKey': 'hunter2pass'}",
    "https://a.blob.example/b?sv=2024&sig=hunter2%2Fpass%3D&se=1 refused",
    "https://s3.example/b?X-Amz-Expires=60&X-Amz-Signature=hunter2pass",
    "https://api.example/v1?key=zzTopHunter2: bad",
    "https://api.example/v1?a=1&token=hunter2",
    "https://api.example/cb?code=hunter2#x",
    "https://api.example/cb?auth=hunter2",
    "/v1?pass=hunter2&a=b",
    "-----BEGIN RSA PRIVATE KEY-----\nhunter2+/=\n-----END RSA PRIVATE KEY----- is no key",
    r"'-----BEGIN PRIVATE KEY-----\nhunter2",
)
SECRETS = (
    "sk-proj", "abcdefgh", "0123456789abcdef", "abc.def", "topsecret", "AKIA", "hunter2", "AIza", "hunter2",
    "eyJ", "wJalr", "wJalr",
    "hunter2", "84213377", *["hunter2"] * 8,
    "er2", "hunter2", *["hunter2"] * 6, "Hunter2", *["hunter2"] * 6,
)  # fmt: skip
HARMLESS = (
    "ValueError: boom", "out of paper", "model gpt-4.1-mini-2025-04-14 does not exist",
    "run 0198c0de-0000-7000-8000-000000000001 ended", "rate limit reached: 30000 tokens per min",
    "max_tokens: 8192 is too large", "connection to http://127.0.0.1:8080/v1 refused", "the token limit is 4",
    "max_tokens: length exceeded", "token: unexpected end", "auth: login is needed",
    "author: Smith and others",
    "cookie: none was sent", "No such file: /home/bob/Projects/runstore2/src/runstore/core",
    "mail bob@example.com", "primary key: the_column", "signature: (a, b) -> c", "sort_key=name",
    "https://a/b?signal=hello&design=1", "https://a/b?keyword=hello&code=404",
)  # fmt: skip


@pytest.mark.parametrize(("text", "secret"), [*zip(KEYS, SECRETS, strict=True)])
def test_a_key_is_masked(text: str, secret: str) -> None:
    masked = without_keys(text)
    assert secret not in masked
    assert "***" in masked


@pytest.mark.parametrize("text", HARMLESS)
def test_text_that_is_not_a_key_stays(text: str) -> None:
    assert without_keys(text) == text


@pytest.mark.parametrize(
    "shape",
    [
        "-a",
        "/p/qX1",
        "QUJD/+9a",
        "eyJ-",
        "://a:",
        "token",
        "a.eyJabcd",
        "pwd-",
        " ",
        "&sig=",
        "?x-",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_long_text_of_any_shape_is_cut_and_masked_in_one_pass(shape: str) -> None:
    text = shape * (2**20 // len(shape))
    masked = without_keys(f"pwd=hunter2pass {text}")
    assert masked.startswith("pwd=*** ")
    assert masked.endswith(" more characters)")
    assert len(masked) < MAX_TEXT + 100


def test_a_key_at_the_cut_does_not_stand_there_by_half() -> None:
    assert "AKIA" not in without_keys("x " * (MAX_TEXT // 2 - 4) + "AKIAIOSFODNN7EXAMPLE")
