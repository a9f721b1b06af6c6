"""What the command line asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`database_urls`: servers, on which benchmarks make databases of their own; SQLite is always there.

    `events`: of the largest log of `growth`; None: its default.
    """

    quick: bool = False
    database_urls: tuple[str, ...] = ()
    redis_url: str | None = None
    events: int | None = None

    @property
    def rounds(self) -> int:
        """Of what is measured in turns."""
        return 1 if self.quick else 5
