"""Closes the resources that an attempt's agents hold, such as MCP clients with their servers.

Closing runs on threads of its own, as it may take seconds; no event loop waits for it.
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

CLOSING_S = 5.0  # seconds for what agents hold to close when the process ends

log = structlog.get_logger(__name__)

_closing: set[threading.Thread] = set()
_lock = threading.Lock()


class Holder(Protocol):
    """An object to close: strands' ToolRegistry."""

    def cleanup(self) -> None:
        """Close; safe to call twice."""


class AttemptHolders:
    """The holders that the code of one attempt made. Safe to use from any thread.

    Those of the attempt's own agents are closed with it. Others are closed when the last reference to them is
    gone, as later runs may use them: an agent made by a tool, or an agent that was made and never used.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: WeakSet[Any] = WeakSet()
        self._own: list[Holder] = []
        self._closed = False

    def add(self, holder: Holder) -> None:
        """Register a new holder. After the end of the attempt it is closed at once."""
        with self._lock:
            closed = self._closed
            self._made.add(holder)
        if closed:
            close(holder)

    def own(self, holder: Holder) -> None:
        """Mark a holder as belonging to an agent of this attempt alone."""
        with self._lock:
            if not self._closed:
                self._own.append(holder)

    def close(self) -> None:
        """Close the attempt's holders. Returns at once; safe to call twice, and while an agent is at work."""
        with self._lock:
            own, self._own, self._closed = self._own, [], True
            others = len(self._made.difference(own)) > 0
        for holder in own:
            close(holder)
        if others:
            in_thread(gc.collect)  # agents refer to themselves, so only the collector ends them


HELD: ContextVar[AttemptHolders | None] = ContextVar("runstore_held", default=None)


def close(holder: Holder) -> None:
    """Close a holder on a thread of its own."""

    def cleanup() -> None:
        try:
            holder.cleanup()
        except Exception as error:
            log.warning("tools_not_closed", error=in_a_line(error))

    in_thread(cleanup)


def in_thread(function: Callable[[], Any]) -> None:
    """Call a function on a daemon thread; the end of the process waits for it."""

    def run() -> None:
        try:
            function()
        finally:
            with _lock:
                _closing.discard(threading.current_thread())

    thread = threading.Thread(target=run, name="runstore-closing", daemon=True)
    with _lock:  # the thread takes the lock at its end, so it is registered before that
        thread.start()
        _closing.add(thread)


def wait_until_closed(timeout_s: float) -> bool:
    """Wait for running closes; False if they take longer."""
    until = time.monotonic() + timeout_s
    while threads := _threads():
        threads[0].join(max(0, until - time.monotonic()))
        if time.monotonic() >= until:
            return not _threads()
    return True


def _threads() -> Sequence[threading.Thread]:
    with _lock:
        return list(_closing)
