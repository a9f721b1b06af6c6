"""Ending what a thread does, where Python allows: at its next line of Python, not in a call into C."""

import ctypes
import threading
from contextlib import suppress

_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = [ctypes.c_ulong, ctypes.py_object]


class Interrupted(BaseException):
    """Raised in a thread whose work is no longer needed."""


def interrupt(thread_id: int) -> None:
    """Raise `Interrupted` in a thread, which must handle it."""
    _set_exception(thread_id, Interrupted)


def drop_interrupt() -> None:
    """Drop an `Interrupted` that was sent to the calling thread, and that it may not have raised yet.

    So it is raised here. CPython could also withdraw it, but until 3.12 leaves a flag set that makes every
    thread look for such an exception at each call. In 3.11 a thread with a profiler or a debugger then looks
    without end.
    """
    with suppress(Interrupted):
        interrupt(threading.get_ident())
        for _ in range(2):
            pass  # Python raises it at a jump back, if not before
