"""Restricts submitted code in the kernel, for any user: Landlock for files, seccomp for system calls.

Both need Linux but no privileges (https://docs.kernel.org/userspace-api/landlock.html, seccomp(2)). A kernel
or system without one of them runs the code without it: docs/how-to/run-code.md says which limits remain.
"""

import ctypes
import errno
import os
import platform
import site
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
# System calls; their numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1

# Rights of Landlock, by the version of its interface that introduced them.
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, list a directory
_WRITE_FILE = 1 << 1
_CHANGES = {1: sum(1 << bit for bit in range(4, 13)), 2: 1 << 13, 3: 1 << 14}  # make, remove, refer, truncate
_SCOPES = (6, 1 << 0 | 1 << 1)  # abstract Unix sockets and signals to processes outside

# Paths that a Python and its libraries read. /etc, /var and /home hold other users' secrets.
_READABLE = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store", "/proc", "/sys", "/dev",
    "/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/group", "/etc/host.conf", "/etc/hosts",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release",
    "/etc/passwd", "/etc/pki", "/etc/protocols", "/etc/resolv.conf", "/etc/services", "/etc/ssl",
    "/etc/timezone",
)  # fmt: skip
_WRITABLE = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")

# EPERM for memory that no process limit counts, and for calls that would bypass the filter.
_NUMBERS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {"memfd_create": 319, "memfd_secret": 447, "shmget": 29, "shmat": 30, "shmctl": 31, "msgget": 68,
         "semget": 64, "mq_open": 240, "io_uring_setup": 425, "userfaultfd": 323, "add_key": 248,
         "keyctl": 250},
    ),
    "aarch64": (
        0xC00000B7,
        {"memfd_create": 279, "memfd_secret": 447, "shmget": 194, "shmat": 196, "shmctl": 195, "msgget": 186,
         "semget": 190, "mq_open": 180, "io_uring_setup": 425, "userfaultfd": 282, "add_key": 217,
         "keyctl": 219},
    ),
}  # fmt: skip
# A socket's buffers count in no process limit. It keeps the sizes that it has from the start (about 0.2 MiB).
_SETSOCKOPT = {"x86_64": 54, "aarch64": 208}
_SOL_SOCKET = 1
_BUFFER_SIZES = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and the same with privileges
_LEVEL, _OPTION = 24, 32  # the places of the second and third argument
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of the filter
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_X32 = 0x40000000  # x86-64 repeats its calls above this number (x32)


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction))]


class CodeSandbox:
    """Made before the fork; the new process calls `enter`, which restricts it and all its descendants.

    Args:
        folder: the directory that the code may write to.
    """

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._ruleset = -1 if self._libc is None else _ruleset(self._libc, folder)
        self._filter = _filter(platform.machine())

    def enter(self) -> None:
        """Give up rights for good. Raises OSError if the kernel supports a restriction but refuses it."""
        libc = self._libc
        if libc is None:
            return
        _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))  # no sudo either
        if self._ruleset >= 0:
            _check(libc.syscall(_RESTRICT_SELF, self._ruleset, 0))
        if self._filter is not None:
            result = libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(self._filter), 0, 0)
            _check(result, unless=(errno.EINVAL, errno.ENOSYS))  # the kernel has no seccomp

    def close(self) -> None:
        """Close the descriptor in this process."""
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1


def _ruleset(libc: ctypes.CDLL, folder: Path) -> int:
    """A descriptor of the rules for files; -1 if the kernel has no Landlock."""
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return -1
    changes = _WRITE_FILE | sum(rights for since, rights in _CHANGES.items() if version >= since)
    scoped = _SCOPES[1] if version >= _SCOPES[0] else 0
    attributes = _Ruleset(_READ | changes, 0, scoped)
    size = ctypes.sizeof(attributes) if scoped else 8
    ruleset: int = libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), size, 0)
    _check(ruleset)
    try:
        _allow(libc, ruleset, _READ, [*_READABLE, *_pythons()])
        _allow(libc, ruleset, _WRITE_FILE | 1 << 2, _WRITABLE)
        _allow(libc, ruleset, _READ | changes, [str(folder)])
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _pythons() -> set[str]:
    """Directories of this Python and its packages."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    return {*prefixes, *site.getsitepackages(), site.getusersitepackages()} - {"/"}


def _allow(libc: ctypes.CDLL, ruleset: int, rights: int, paths: Iterable[str]) -> None:
    for path in paths:
        with suppress(FileNotFoundError, PermissionError, NotADirectoryError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                own = rights if os.path.isdir(path) else rights & (_WRITE_FILE | 1 << 0 | 1 << 2 | 1 << 14)
                rule = _Beneath(own, opened)
                _check(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
            finally:
                os.close(opened)


def _filter(machine: str) -> _Program | None:
    """The filter of system calls; None for a machine whose call numbers are unknown here."""
    if machine not in _NUMBERS:
        return None
    architecture, numbers = _NUMBERS[machine]
    denied = sorted(numbers.values())
    buffers = [
        (_EQUAL, 0, len(_BUFFER_SIZES) + 3, _SETSOCKOPT[machine]),
        (_LOAD, 0, 0, _LEVEL),
        (_EQUAL, 0, len(_BUFFER_SIZES) + 1, _SOL_SOCKET),
        (_LOAD, 0, 0, _OPTION),
        *((_EQUAL, len(_BUFFER_SIZES) - n, 0, option) for n, option in enumerate(_BUFFER_SIZES)),
    ]
    steps = [
        (_LOAD, 0, 0, 4),  # load the architecture
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
        (_LOAD, 0, 0, 0),  # load the call's number
        (_AT_LEAST, len(denied) + len(buffers) + 1, 0, _X32),
        *((_EQUAL, len(denied) + len(buffers) - n, 0, number) for n, number in enumerate(denied)),
        *buffers,
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
    ]
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    return _Program(len(steps), instructions)


def _check(result: int, unless: tuple[int, ...] = ()) -> None:
    if result < 0 and (number := ctypes.get_errno()) not in unless:
        raise OSError(number, os.strerror(number))
