"""What the command line asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`database_urls`: servers, on which benchmarks make databases of their own; SQLite is always there."""

    quick: bool = False
    database_urls: tuple[str, ...] = ()
    redis_url: str | None = None
