"""Checks results against a JSON Schema (draft 2020-12, https://json-schema.org/specification).

A match of a regular expression may never end, holds the interpreter and cannot be interrupted. So a schema
with patterns is checked in a process of its own, which ends when its time is over.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from msgspec import Struct

from runstore.runtime.loops.interrupts import Interrupted, drop_interrupt, interrupt

MAX_SCHEMA_WARNINGS = 100  # warnings about one result
MAX_WARNING = 500  # characters of one warning
START_S = 30.0  # seconds for such a process to start, on a busy machine
# Seconds for one result: the time of some keywords grows with the square of its size, or faster.
CHECK_S = 2.0
MAX_MATCHED = 4_096  # characters matched against a pattern, as that call cannot be interrupted
TOO_DEEP = "the schema or the result is nested too deep"
_PATTERNS = frozenset({"pattern", "patternProperties"})
_PROCESS = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import check_input; check_input()"


class SchemaWarning(Struct, frozen=True):
    """A place where a result does not match its schema. `path`: a JSON path, `$` for the result itself."""

    path: str
    message: str


def check_schema(schema: dict[str, Any], what: str = "`output_schema`") -> None:
    """Raise ValueError if the value is not a JSON Schema. `what`: names it in the message."""
    from jsonschema import Draft202012Validator, SchemaError  # 0.1 s that most starts need not spend

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{what} is not a JSON Schema: {error.json_path}: {error.message}") from error


def schema_warnings(schema: dict[str, Any], result: Any, *, within_s: float = CHECK_S) -> list[SchemaWarning]:
    """The mismatches of a result. References of the schema are never fetched.

    If the check is aborted, for example after `within_s`, the last warning says so.
    """
    if _has_long_name(result):
        return [_given_up(f"the result has a name of more than {MAX_MATCHED:,} characters")]
    return (_checked_apart if _has_patterns(schema) else _checked)(schema, result, within_s)


def check_input() -> None:
    """Check the result on stdin, in a process of its own; print its warnings."""
    schema, result, within_s = json.load(sys.stdin)
    _validator()  # its import is not part of the time
    signal.setitimer(signal.ITIMER_REAL, within_s + 0.5)  # ends the process during a match
    json.dump([[each.path, each.message] for each in _checked(schema, result, within_s)], sys.stdout)


def _checked_apart(schema: dict[str, Any], result: Any, within_s: float) -> list[SchemaWarning]:
    try:
        request = json.dumps([schema, result, within_s]).encode()
    except RecursionError:
        return [_given_up(TOO_DEEP)]
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _PROCESS, *sys.path],
            input=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=START_S + within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [_given_up(f"it took more than {within_s:g} s")]
    if ended.returncode == -signal.SIGALRM:
        return [_given_up(f"it took more than {within_s:g} s")]
    if ended.returncode or not ended.stdout:
        return [_given_up(f"its process ended with the exit code {ended.returncode}")]
    return [SchemaWarning(path, message) for path, message in json.loads(ended.stdout)]


def _checked(schema: dict[str, Any], result: Any, within_s: float) -> list[SchemaWarning]:
    _validator()  # an interrupted import would leave half of its modules
    found: list[SchemaWarning] = []
    try:
        with _interrupted_after(within_s):
            for warning in _warnings(schema, result):
                found.append(warning)
                if len(found) == MAX_SCHEMA_WARNINGS:
                    break
    except Interrupted:
        found.append(_given_up(f"it took more than {within_s:g} s"))
    except RecursionError:
        found.append(_given_up(TOO_DEEP))
    return found[:MAX_SCHEMA_WARNINGS]


def _warnings(schema: dict[str, Any], result: Any) -> Iterator[SchemaWarning]:
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    registry: Registry[Any] = Registry()
    try:
        for error in _validator()(schema, registry=registry).iter_errors(result):
            yield SchemaWarning(error.json_path, error.message[:MAX_WARNING])
    except Unresolvable as error:
        message = f"the schema has a reference that it cannot resolve: {error}"
        yield SchemaWarning("$", message[:MAX_WARNING])


def _given_up(why: str) -> SchemaWarning:
    return SchemaWarning("$", f"the check was given up, so there may be more: {why}")


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Raise Interrupted in the block when its time is over, and never after the block."""
    thread_id, lock = threading.get_ident(), threading.Lock()
    interrupted = over = False

    def end() -> None:
        nonlocal interrupted
        with lock:
            if not over:
                interrupted = True
                interrupt(thread_id)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        while not over:
            with suppress(Interrupted):  # it came just after the end of the block
                with lock:
                    if interrupted:
                        drop_interrupt()
                    over = True
                timer.cancel()


def _has_patterns(schema: Any) -> bool:
    """Whether a schema may match texts against a regular expression."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if not _PATTERNS.isdisjoint(item):
                return True
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return False


def _has_long_name(value: Any) -> bool:
    """Whether an object in a value has a name too long to be matched against a pattern."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if any(len(name) > MAX_MATCHED for name in item):
                return True
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return False


@cache
def _validator() -> Any:
    """The draft's validator, with bounded versions of its unbounded keywords."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend

    matches = Draft202012Validator.VALIDATORS["pattern"]

    def unique_items(validator: Any, unique: Any, instance: Any, _schema: Any) -> Iterator[Any]:
        if unique and validator.is_type(instance, "array"):
            seen: set[Hashable] = set()
            for item in map(_key, instance):
                if item in seen:
                    yield ValidationError("the array has non-unique elements")
                    return
                seen.add(item)

    def pattern(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not validator.is_type(instance, "string") or len(instance) <= MAX_MATCHED:
            yield from matches(validator, wanted, instance, schema) or ()
        else:
            yield ValidationError(f"more than {MAX_MATCHED:,} characters are not checked against {wanted!r}")

    keywords = {"uniqueItems": unique_items, "pattern": pattern}
    return extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]


def _key(value: Any) -> Hashable:
    """The same for values that JSON Schema takes for equal: 1 is 1.0, and not true."""
    if isinstance(value, dict):
        return "object", frozenset((name, _key(item)) for name, item in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_key, value))
    return ("boolean", value) if isinstance(value, bool) else value
