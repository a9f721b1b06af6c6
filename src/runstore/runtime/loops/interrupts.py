"""Ending what a thread does, where Python allows: at its next line of Python, not in a call into C."""

import ctypes
import sys
import threading
from contextlib import suppress

_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = [ctypes.c_ulong, ctypes.py_object]

IMPORTS = "<frozen importlib._bootstrap>"  # the file of Python's import locks


class Interrupted(BaseException):
    """Raised in a thread whose work is no longer needed."""


def interrupt(thread_id: int) -> None:
    """Raise `Interrupted` in a thread, which must handle it."""
    _set_exception(thread_id, Interrupted)


def importing() -> set[int]:
    """The threads that may wait for the import of a module, which must not be interrupted now.

    A waiting thread wakes the next one. If `Interrupted` took it away, all others would wait without end. The
    answer ages at once: taken directly before an interrupt it narrows that race, and does not close it.
    """
    frames = sys._current_frames()
    return {thread_id for thread_id, frame in frames.items() if frame.f_code.co_filename == IMPORTS}


def drop_interrupt() -> None:
    """Drop a pending `Interrupted` of this thread by raising and catching it here.

    CPython can also withdraw it, but until 3.12 that leaves a flag set: every thread then checks for such an
    exception at each call, and in 3.11 a thread with a profiler or a debugger checks without end.
    """
    with suppress(Interrupted):
        interrupt(threading.get_ident())
        for _ in range(2):
            pass  # Python raises it at a jump back, if not before
