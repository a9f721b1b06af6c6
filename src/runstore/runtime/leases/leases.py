"""The port: which workers are alive."""

from typing import Protocol


class Leases(Protocol):
    """A worker holds its own lease from `hold` to `release`, or until its process ends.

    The coroutines except `release` raise LogUnavailable while the database cannot be used.
    """

    worker_id: str

    @property
    def held(self) -> bool:
        """Whether the own lease is known to be valid; without it, the worker takes no run."""

    async def hold(self) -> None:
        """Take the own lease. Safe to call twice."""

    async def dead(self, worker_ids: set[str]) -> dict[str, bool]:
        """Those of these workers that are gone: {worker_id: True if it crashed, False if it handed over}.

        Call it several times a second: a worker is found dead only while it is watched.
        """

    async def forget(self, still_named: set[str]) -> None:
        """Clean up after dead workers that no open run names any more."""

    async def release(self) -> None:
        """Release the own lease: the worker's runs are handed over, not lost. Safe to call twice."""
