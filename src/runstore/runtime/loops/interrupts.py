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
    """Drop a pending `Interrupted` of this thread by raising and catching it here.

    CPython can also withdraw it, but until 3.12 that leaves a flag set: every thread then checks for such an
    exception at each call, and in 3.11 a thread with a profiler or a debugger checks without end.
    """
    with suppress(Interrupted):
        interrupt(threading.get_ident())
        for _ in range(2):
            pass  # Python raises it at a jump back, if not before
