"""The queued runs that wait: for a slot of this process, or for an earlier run of their session."""


class FairQueue:
    """Users take turns, and each user's runs come in their order.

    So a user's run waits for one run of every other user at most, however many those have.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, dict[str, None]] = {}  # user → runs; the user whose turn it is comes first
        self._users: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._users)

    def add(self, run_id: str, user_id: str) -> None:
        """Let a run wait; one that waits already keeps its place."""
        if run_id not in self._users:
            self._users[run_id] = user_id
            self._lanes.setdefault(user_id, {})[run_id] = None

    def take(self) -> tuple[str, str]:
        """The next run and its user, who comes last now. There must be one."""
        user_id, lane = next(iter(self._lanes.items()))
        run_id = next(iter(lane))
        self.remove(run_id)
        if user_id in self._lanes:
            self._lanes[user_id] = self._lanes.pop(user_id)
        return run_id, user_id

    def remove(self, run_id: str) -> None:
        """Forget a run, if it waits."""
        user_id = self._users.pop(run_id, None)
        if user_id is not None:
            del self._lanes[user_id][run_id]
            if not self._lanes[user_id]:
                del self._lanes[user_id]


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
