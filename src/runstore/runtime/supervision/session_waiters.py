"""Queued runs that wait for an earlier run of their session."""


class SessionWaiters:
    """Finds the runs that wait for a run, when that one ends."""

    def __init__(self) -> None:
        self._waiters: dict[str, dict[str, None]] = {}  # run → the runs that wait for it

    def add(self, run_id: str, before: str) -> None:
        """Let a run wait for the one before it."""
        self._waiters.setdefault(before, {})[run_id] = None

    def remove(self, run_id: str, before: str) -> None:
        """Forget a run that waits."""
        del self._waiters[before][run_id]
        if not self._waiters[before]:
            del self._waiters[before]

    def of(self, before: str) -> list[str]:
        """The runs that wait for this one, in the order in which they were queued."""
        return sorted(self._waiters.get(before, ()))

    def awaited(self) -> set[str]:
        """The runs that others wait for."""
        return set(self._waiters)
