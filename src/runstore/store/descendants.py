"""Finds the forks of runs, and their forks in turn: each begins with a copy of its parent's conversation."""

from collections import defaultdict
from collections.abc import Iterator

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, select

from runstore.database.expressions import holds
from runstore.database.keys import rows_with
from runstore.database.tables import runs
from runstore.projections.runs import decode_state

PAGE_ROWS = 500  # forks of one SELECT
IS_FORK = b'"parent_run_id":"'  # part of the state of every fork


class Fork(Struct, frozen=True):
    """A run that began with a copy of another run's conversation. `user_id`: its owner."""

    run_id: str
    user_id: str
    parent_run_id: str


def find_descendants(connection: Connection, of: ColumnElement[bool]) -> list[Fork]:
    """The forks of runs, and the forks of those, except for runs that are purged or are among these runs.

    It looks through the whole run list, and keeps all of its forks in memory.

    Args:
        of: a condition on the table `runs`.
    """
    children: defaultdict[str, list[Fork]] = defaultdict(list)
    among: set[str] = set()  # runs within `of` that are forks
    for fork, is_one in _all_forks(connection, of):
        children[fork.parent_run_id].append(fork)
        if is_one:
            among.add(fork.run_id)
    found: list[Fork] = []
    seen: set[str] = set()
    parents = [*_parents(connection, of, list(children)), *among]
    while parents:
        for fork in children.get(parents.pop(), ()):
            if fork.run_id not in seen and fork.run_id not in among:
                seen.add(fork.run_id)
                found.append(fork)
                parents.append(fork.run_id)
    return sorted(found, key=lambda fork: fork.run_id)


def _all_forks(connection: Connection, of: ColumnElement[bool]) -> Iterator[tuple[Fork, bool]]:
    """All forks that are not purged; and whether each is among the runs `of`."""
    after = ""
    forks = select(runs.c.run_id, runs.c.user_id, runs.c.state, of).order_by(runs.c.run_id).limit(PAGE_ROWS)
    forks = forks.where(runs.c.purged == 0, holds(runs.c.state, IS_FORK))
    while page := connection.execute(forks.where(runs.c.run_id > after)).all():
        after = page[-1][0]
        for run_id, user_id, state, is_one in page:
            parent = decode_state(state).parent_run_id
            if parent is not None:  # a program's metadata may have the same words
                yield Fork(run_id, user_id, parent), bool(is_one)


def _parents(connection: Connection, of: ColumnElement[bool], run_ids: list[str]) -> Iterator[str]:
    """Those of the runs `of` that have forks; purged ones, too."""
    for row in rows_with(connection, select(runs.c.run_id).where(of), runs.c.run_id, run_ids):
        yield row.run_id
