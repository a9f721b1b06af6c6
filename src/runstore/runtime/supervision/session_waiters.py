"""Who waits for whom in a session, as far as this process has been told by the log."""


class SessionWaiters:
    """Queued runs that were refused for another one: each waits for the run just before it to end."""

    def __init__(self) -> None:
        self._before: dict[str, str] = {}
        self._after: dict[str, dict[str, str]] = {}  # run → those that wait for it, and their user

    def __len__(self) -> int:
        return len(self._before)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._before

    def wait(self, run_id: str, user_id: str, before: str) -> None:
        """A user's `run_id` comes after `before`."""
        self._leave(run_id)
        self._before[run_id] = before
        self._after.setdefault(before, {})[run_id] = user_id

    def waited_for(self) -> set[str]:
        """The runs that others wait for."""
        return set(self._after)

    def end(self, run_id: str) -> list[tuple[str, str]]:
        """`run_id` has ended; returns whose turn it may be now, runs and their users, who wait no more."""
        self._leave(run_id)
        following = sorted(self._after.get(run_id, {}).items())
        for waiting, _ in following:
            self._leave(waiting)
        return following

    def _leave(self, run_id: str) -> None:
        before = self._before.pop(run_id, None)
        if before is not None:
            self._after[before].pop(run_id, None)
            if not self._after[before]:
                del self._after[before]
