"""Ending what a thread does, where Python allows: at its next line of Python, not in a call into C."""

import ctypes

_set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_exception.argtypes = [ctypes.c_ulong, ctypes.py_object]
_clear_exception = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_clear_exception.argtypes = [ctypes.c_ulong, ctypes.c_void_p]


class Interrupted(BaseException):
    """Raised in a thread whose work is no longer needed."""


def interrupt(thread_id: int) -> None:
    """Raise `Interrupted` in a thread, which must handle it."""
    _set_exception(thread_id, Interrupted)


def clear_interrupt(thread_id: int) -> None:
    """Withdraw an `Interrupted` that has not been raised yet."""
    _clear_exception(thread_id, None)
