"""One nesting limit for all JSON that comes in. Works on bytes, without recursion."""

import re
from collections.abc import Callable
from typing import TypeVar

MAX_DEPTH = 64  # nested lists and objects; decoders and clients fail at some hundreds
SHALLOW_BYTES = 2 * MAX_DEPTH  # bytes; JSON up to this length cannot be nested deeper

_CUT = b'"\xe2\x80\xa6 nested too deep to be shown"'
_OTHERS = bytes(sorted(set(range(256)) - set(b'"[]{}')))
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)

T = TypeVar("T")


def is_deeper(data: bytes, most: int = MAX_DEPTH) -> bool:
    """Whether JSON is nested deeper than `most` levels; a scalar has no level.

    The JSON must have been encoded or decoded before; for other bytes the answer is arbitrary and may take
    long. All loops run inside the interpreter. Without strings and scalars only brackets are left, and each
    replacement of `[]` removes the innermost level everywhere.
    """
    if data.count(b"[") + data.count(b"{") <= most:
        return False
    marks = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(_AS_LISTS, _OTHERS)
    nest = b"".join(marks.replace(b'""', b"").split(b'"')[::2])
    for _ in range(most):
        if not nest:
            return False
        nest = nest.replace(b"[]", b"")
    return bool(nest)


def cut(data: bytes, most: int = MAX_DEPTH) -> bytes:
    """The JSON with a short text in place of values nested deeper than `most` levels."""
    kept, start, depth = [], 0, 0
    for token in _TOKEN.finditer(data):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth == most + 1:
                kept += [data[start : token.start()], _CUT]
        elif mark in (b"]", b"}"):
            if depth == most + 1:
                start = token.end()
            depth -= 1
    return b"".join([*kept, data[start:]])


def readable(data: bytes, most: int = MAX_DEPTH) -> bytes:
    """Stored JSON in a form that answers can contain: an older release stored deeper values."""
    return cut(data, most) if is_deeper(data, most) else data


def decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    """`decode(data)`; if the stack does not suffice, without the deepest parts of the data."""
    try:
        return decode(data)
    except RecursionError:
        return decode(cut(data))
