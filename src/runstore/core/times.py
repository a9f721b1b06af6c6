"""Times: UTC, milliseconds since 1970 in the log, RFC 3339 on the wire."""

import time
from datetime import datetime
from functools import lru_cache


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def timestamp(at: int) -> str:
    """`at` (milliseconds since 1970) as RFC 3339 in UTC."""
    second, ms = divmod(at, 1000)
    return f"{utc_second(second).decode()}.{ms:03d}Z"


def millis_of(text: str) -> int:
    """A time of `timestamp` in milliseconds since 1970."""
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


@lru_cache(maxsize=4096)
def utc_second(second: int) -> bytes:
    """A second since 1970 as RFC 3339 in UTC, without the fraction and the zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()


def day_of(at: int) -> str:
    """The day of `at` (milliseconds since 1970) in UTC, as 2026-11-29."""
    return utc_second(at // 86_400_000 * 86_400)[:10].decode()
