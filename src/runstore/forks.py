"""The descriptors that a process forked from this one must not hold.

Agents and libraries fork (`os.fork`, `multiprocessing`), and a forked process has all our descriptors. If it
outlives us, it keeps our port, our readers' connections, the lock by which other workers know that we are
alive, and the sockets by which agents' processes notice our end.
"""

import os
from typing import Protocol


class Held(Protocol):
    """A descriptor. `fileno()`: its number, or -1 once it is closed."""

    def fileno(self) -> int: ...


_ours: dict[int, Held] = {}  # a fork copies all descriptors of the process, so there is one list of them


def keep_from_forks(held: Held) -> None:
    """Keep a descriptor out of forked processes. Call `forget` before its number can be used again."""
    _ours[id(held)] = held


def forget(held: Held) -> None:
    """The descriptor is about to be closed, or is closed."""
    _ours.pop(id(held), None)


def _let_go() -> None:
    """Replace the descriptors: the objects that have their numbers may close them later."""
    numbers = [number for held in _ours.values() if (number := held.fileno()) >= 0]
    _ours.clear()
    if numbers:
        null = os.open(os.devnull, os.O_RDWR)
        for number in numbers:
            os.dup2(null, number, inheritable=False)
        os.close(null)


os.register_at_fork(after_in_child=_let_go)
