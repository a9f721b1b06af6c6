"""Finding and calling a user's functions. Whatever they raise comes out as an AgentError, in one line."""

import asyncio
import importlib
import inspect
import operator
import re
from collections.abc import Callable
from typing import Any, TypeVar

from runstore.core.errors import AgentError, RunstoreError

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # package.module:attribute

T = TypeVar("T")


async def load(reference: str) -> Any:
    """Import what `package.module:attribute` names, in a thread: an import may take seconds.

    Raises:
        AgentError: there is no such module or attribute, or importing it failed.
    """
    module_name, _, attribute = reference.partition(":")

    def find() -> Any:
        try:
            return operator.attrgetter(attribute)(importlib.import_module(module_name))
        except (ImportError, AttributeError) as error:
            raise AgentError(f"cannot import {reference!r}: {error}") from error

    return await in_thread(find, f"importing {module_name!r}")


async def call(function: Callable[..., Any], ctx: Any, what: str) -> Any:
    """Call a user's function, sync or async, with `ctx` if it has a parameter of that name.

    Raises:
        AgentError: it raised.
    """
    arguments = {"ctx": ctx} if accepts_context(function) else {}
    made = await in_thread(lambda: function(**arguments), what)
    if not inspect.isawaitable(made):
        return made
    try:
        return await made
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise failed(what, error) from error


async def in_thread(function: Callable[[], T], what: str) -> T:
    """Call a blocking function away from the loop that other runs share."""

    def guarded() -> T:
        try:
            return function()
        except BaseException as error:  # an exit would end the loop's thread, and all its runs
            raise failed(what, error) from error

    return await asyncio.to_thread(guarded)


def accepts_context(function: Callable[..., Any]) -> bool:
    """Whether a user's function has a parameter named `ctx`."""
    try:
        return "ctx" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin that does not tell
        return False


def failed(what: str, error: BaseException) -> RunstoreError:
    """What a user's code raised, as ours; what is ours stays as it is."""
    if isinstance(error, RunstoreError):
        return error
    text = " ".join(words_of(error).split())
    return AgentError(f"{what} failed: {type(error).__name__}: {text}"[:1_000])


def words_of(error: BaseException) -> str:
    """What an exception says of itself; a user's may raise another instead."""
    try:
        return str(error)
    except BaseException as another:
        return f"(its __str__ raised {type(another).__name__})"
