"""Where the server is, and who asks."""

import os
from typing import Any

import httpx

from runstore.core.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8082"
IDLE_S = 4.0  # that a connection is kept for another request: common servers and proxies close it after 5 s
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def connection(url: str | None, api_key: str | None) -> dict[str, Any]:
    """The arguments for an httpx client; what is not given comes from the environment.

    Raises:
        ConfigError: the URL or the key cannot be one.
    """
    address = _address(url or os.environ.get("RUNSTORE_URL") or DEFAULT_URL)
    key = api_key or os.environ.get("RUNSTORE_API_KEY") or ""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError("the API key has characters that no key has")
    return {
        "base_url": address,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "limits": httpx.Limits(max_connections=None, keepalive_expiry=IDLE_S),  # each stream needs one
        "trust_env": address.host not in LOOPBACK,  # no proxy stands between a machine and itself
    }


def _address(text: str) -> httpx.URL:
    try:
        address = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ConfigError(f"the server's URL {text[:200]!r}: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"the server's URL {text[:200]!r} must be as {DEFAULT_URL}")
    return address
