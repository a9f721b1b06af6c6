"""Limits the open streams of this process, per run and per user."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from runstore.core.errors import LimitExceeded
from runstore.store.runs import RunStore


class Subscribers:
    """Each stream takes one slot of its user and one of its run while it is open.

    Both methods raise LimitExceeded on entry.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._of_users = Counter[str]()
        self._of_runs = Counter[str]()

    def of_user(self, user_id: str) -> AbstractContextManager[None]:
        most = self._store.limits.subscribers_per_user
        return _slot(self._of_users, user_id, "subscribers_per_user", f"user {user_id}", most)

    def of_run(self, run_id: str) -> AbstractContextManager[None]:
        most = self._store.limits.subscribers_per_run
        return _slot(self._of_runs, run_id, "subscribers_per_run", f"run {run_id}", most)


@contextmanager
def _slot(counts: Counter[str], name: str, limit: str, who: str, most: int) -> Iterator[None]:
    if counts[name] >= most:
        raise LimitExceeded(limit, f"{who} has {most:,} open streams, as many as allowed")
    counts[name] += 1
    try:
        yield
    finally:
        counts[name] -= 1
        if not counts[name]:
            del counts[name]
