"""What the agents of an attempt hold beyond memory, as MCP clients their servers, and letting go of it.

It is let go of on threads of its own: that may take seconds, and no loop waits for it.
"""

import gc
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakSet

import structlog

from runstore.runtime.user_code import in_a_line

log = structlog.get_logger(__name__)

_closing: set[threading.Thread] = set()
_lock = threading.Lock()


class Holder(Protocol):
    """What is to be closed: strands' ToolRegistry."""

    def cleanup(self) -> None:
        """Close; safe to call twice."""


class Held:
    """The holders that the code of one attempt has made. Safe to use from any thread.

    Those of the attempt's own agents are closed with it. Others are closed once nothing refers to them any
    more, for they may be kept for later runs: an agent that a tool has made, or one that was made in vain.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: WeakSet[Any] = WeakSet()
        self._own: list[Holder] = []
        self._closed = False

    def add(self, holder: Holder) -> None:
        """One was made. After the end of the attempt it is closed at once."""
        with self._lock:
            closed = self._closed
            self._made.add(holder)
        if closed:
            close(holder)

    def own(self, holder: Holder) -> None:
        """It is an agent's of this attempt, and of nobody else."""
        with self._lock:
            if not self._closed:
                self._own.append(holder)

    def close(self) -> None:
        """Close what is the attempt's. Returns at once; safe to call twice, and while an agent is at work."""
        with self._lock:
            own, self._own, self._closed = self._own, [], True
            others = len(self._made.difference(own)) > 0
        for holder in own:
            close(holder)
        if others:
            in_thread(gc.collect)  # agents refer to themselves, so that nothing else ends them in time


HELD: ContextVar[Held | None] = ContextVar("runstore_held", default=None)


def close(holder: Holder) -> None:
    """Close a holder on a thread of its own."""

    def cleanup() -> None:
        try:
            holder.cleanup()
        except Exception as error:
            log.warning("tools_not_closed", error=in_a_line(error))

    in_thread(cleanup)


def in_thread(function: Callable[[], Any]) -> None:
    """Call a function on a daemon thread, which the end of the process waits for."""

    def run() -> None:
        try:
            function()
        finally:
            with _lock:
                _closing.discard(threading.current_thread())

    thread = threading.Thread(target=run, name="runstore-closing", daemon=True)
    with _lock:  # which the thread takes at its end: it is there before it can leave
        thread.start()
        _closing.add(thread)


def wait_until_closed(timeout_s: float) -> bool:
    """Wait for what is being closed; False when it takes longer."""
    until = time.monotonic() + timeout_s
    while threads := _threads():
        threads[0].join(max(0, until - time.monotonic()))
        if time.monotonic() >= until:
            return not _threads()
    return True


def _threads() -> Sequence[threading.Thread]:
    with _lock:
        return list(_closing)
