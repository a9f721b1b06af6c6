"""One nesting limit for all JSON that comes in. Works on bytes, without recursion."""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

MAX_DEPTH = 64  # nested lists and objects; decoders and clients fail at some hundreds
DECODED_DEPTH = 512  # levels given to a decoder; it needs up to 300 bytes of the stack for each
SHALLOW_BYTES = 2 * MAX_DEPTH  # bytes; JSON up to this length cannot be nested deeper

_CUT = b'"\xe2\x80\xa6 nested too deep to be shown"'
_OTHERS = bytes(sorted(set(range(256)) - set(b'"[]{}')))
_AS_LISTS = bytes.maketrans(b"{}", b"[]")
# An unterminated string counts as a string, so that no input takes long.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)

T = TypeVar("T")


def is_deeper(data: bytes, most: int = MAX_DEPTH) -> bool:
    """Whether JSON is nested deeper than `most` levels; a scalar has no level.

    For bytes that are no JSON the answer is arbitrary, but always true if a decoder would go deeper before it
    noticed. All loops run inside the interpreter. Without strings and scalars only brackets are left, and
    each replacement of `[]` removes the innermost level everywhere.
    """
    if not _may_be_deeper(data, most):
        return False
    marks = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(_AS_LISTS, _OTHERS)
    nest = b"".join(marks.replace(b'""', b"").split(b'"')[::2])
    for _ in range(most):
        if not nest:
            return False
        left = nest.replace(b"[]", b"")
        if len(left) == len(nest):
            return True  # unbalanced brackets
        nest = left
    return bool(nest)


def check_decodable(data: bytes, most: int = DECODED_DEPTH) -> None:
    """Refuse bytes, JSON or not, before a decoder goes deeper into them than `most` levels.

    The interpreter's own limit is no bound: agents and libraries may raise it (`sys.setrecursionlimit`), and
    then a decoder overflows the stack, which ends the process.

    Raises:
        RecursionError: as a decoder does at the interpreter's limit.
    """
    if is_deeper(data, most) and _goes_deeper(data, most):
        raise RecursionError(f"nested deeper than {most} levels")


def _goes_deeper(data: bytes, most: int) -> bool:
    depth = 0
    for token in _TOKEN.finditer(data):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth > most:
                return True
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth <= 0:
                break  # the end of the value
    return False


def cut(data: bytes, most: int = MAX_DEPTH) -> bytes:
    """The JSON with a short text in place of values nested deeper than `most` levels."""
    return _replaced(data, most, lambda deep: _CUT)


def folded(data: bytes, most: int = MAX_DEPTH) -> bytes:
    """The JSON with texts in place of values nested deeper than `most` levels: their own JSON.

    Takes any bytes. A mistake within a value that a text replaces stays in the text.
    """
    return _replaced(data, most, lambda deep: msgspec.json.encode(deep.decode()))


def _replaced(data: bytes, most: int, replace: Callable[[bytes], bytes]) -> bytes:
    if not _may_be_deeper(data, most):
        return data
    kept, start, depth = [], 0, 0
    for token in _TOKEN.finditer(data):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth == most + 1:
                kept.append(data[start : token.start()])
                start = token.start()
        elif mark in (b"]", b"}"):
            if depth == most + 1:
                kept.append(replace(data[start : token.end()]))
                start = token.end()
            depth -= 1
            if depth <= 0:
                break
    return b"".join([*kept, data[start:]])


def _may_be_deeper(data: bytes, most: int) -> bool:
    return data.count(b"[") + data.count(b"{") > most


def readable(data: bytes, most: int = MAX_DEPTH) -> bytes:
    """Stored JSON in a form that answers can contain: an older release stored deeper values."""
    return cut(data, most) if is_deeper(data, most) else data


def decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    """`decode(data)`; if the stack does not suffice, without the deepest parts of the data."""
    try:
        return decode(data)
    except RecursionError:
        return decode(cut(data))
