"""Finds the server and the API key for a client."""

import os
from typing import Any

import httpx

from runstore.core.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8082"
IDLE_S = 4.0  # seconds to keep an idle connection; common servers and proxies close it after 5
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def connection(url: str | None, api_key: str | None) -> dict[str, Any]:
    """The arguments for an httpx client; missing values come from the environment.

    Raises:
        ConfigError: the URL or the key is malformed.
    """
    address = _address(url or os.environ.get("RUNSTORE_URL") or DEFAULT_URL)
    key = api_key or os.environ.get("RUNSTORE_API_KEY") or ""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError("the API key has characters that keys cannot have")
    return {
        "base_url": address,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "limits": httpx.Limits(
            max_connections=None, keepalive_expiry=IDLE_S
        ),  # each stream needs its own connection
        "trust_env": address.host not in LOOPBACK,  # a proxy never applies to this machine itself
    }


def _address(text: str) -> httpx.URL:
    try:
        address = httpx.URL(text)
        address.raw_host.decode().encode("idna")  # the look-up of the host would fail here, too
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ConfigError(f"the server's URL {text[:200]!r}: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigError(f"the server's URL {text[:200]!r} must look like {DEFAULT_URL}")
    return address
