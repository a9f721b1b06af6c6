"""How deep JSON may be nested: one limit for every value that comes in. Works on bytes, without recursion."""

import re
from collections.abc import Callable
from typing import TypeVar

MAX_DEPTH = 64  # lists and objects within each other; decoders and clients give up at some hundreds
SHALLOW_BYTES = 2 * MAX_DEPTH  # JSON that is no longer than this cannot be nested deeper

_CUT = b'"\xe2\x80\xa6 nested too deep to be shown"'
_OTHERS = bytes(sorted(set(range(256)) - set(b'"[]{}')))
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)

T = TypeVar("T")


def is_deeper(data: bytes, most: int = MAX_DEPTH) -> bool:
    """Whether JSON is nested deeper than `most` levels; a scalar has none.

    Only of JSON that was encoded or decoded before: of anything else it says nothing, and may take long.
    All loops are the interpreter's own. What is left without strings and scalars is brackets, and each
    replacement of `[]` takes the innermost level away everywhere.
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
    """The JSON with a short text in place of whatever is nested deeper than `most` levels."""
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
    """Stored JSON as answers can be made of: an older release stored what is nested deeper."""
    return cut(data, most) if is_deeper(data, most) else data


def decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    """`decode(data)`; when the stack does not suffice for it, of the data without its deepest parts."""
    try:
        return decode(data)
    except RecursionError:
        return decode(cut(data))
