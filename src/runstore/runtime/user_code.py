"""Finding and calling a user's functions. Every exception becomes an AgentError of one line."""

import asyncio
import importlib
import inspect
import operator
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import structlog

from runstore.core.errors import AgentError, RunstoreError
from runstore.core.masking import without_keys

log = structlog.get_logger(__name__)

MAX_WORDS = 1_000  # characters of an error's text
MAX_MEMBERS = 10  # named members of an exception group
MAX_CAUSES = 100  # causes of an error to examine
# Packages of HTTP clients and of models' providers: their messages hold URLs, and what a server answered.
FOREIGN = frozenset(
    [
        "aiohttp",
        "anthropic",
        "azure",
        "boto3",
        "botocore",
        "cohere",
        "google",
        "groq",
        "grpc",
        "httpcore",
        "httpx",
        "huggingface_hub",
        "litellm",
        "llama_api_client",
        "mistralai",
        "ollama",
        "openai",
        "requests",
        "together",
        "urllib3",
        "writerai",
    ]
)
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # package.module:attribute

T = TypeVar("T")


async def load(reference: str) -> Any:
    """Import `package.module:attribute` in a thread, as an import may take seconds.

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
    except (asyncio.CancelledError, GeneratorExit, AgentError):
        raise
    except BaseException as error:
        raise failed(what, error) from error


def check_call(function: Callable[..., Any], reference: str) -> None:
    """Check that a factory, or an async generator function, accepts its arguments.

    Raises:
        AgentError: it requires another parameter.
    """
    given = {"ctx": None} if accepts_context(function) else {}
    generates = inspect.isasyncgenfunction(function)
    try:
        inspect.signature(function).bind(*(["the input"] if generates else []), **given)
    except TypeError as error:
        takes = "the input and `ctx`" if generates else "`ctx`"
        raise AgentError(f"{reference!r} can only have parameters for {takes}: {error}") from error
    except ValueError:  # a builtin without a signature
        pass


async def in_thread(function: Callable[[], T], what: str) -> T:
    """Call a blocking function off the loop that other runs share."""

    def guarded() -> T:
        try:
            return function()
        except RunstoreError:
            raise
        except BaseException as error:  # a SystemExit would end the loop's thread, and all its runs
            raise failed(what, error) from error

    return await asyncio.to_thread(guarded)


def accepts_context(function: Callable[..., Any]) -> bool:
    """Whether a user's function has a parameter named `ctx`."""
    try:
        return "ctx" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def failed(what: str, error: BaseException) -> AgentError:
    """A user's exception as a new error of ours, to be raised `from` it.

    An error of ours keeps its code and message, also as the only member of a group, as from a TaskGroup.
    """
    error = only_member(error)
    if isinstance(error, RunstoreError):
        return AgentError(without_keys(words_of(error)[:MAX_WORDS]), code=error.code)
    return AgentError(f"{what} failed: {for_users(error)}"[:MAX_WORDS])


def for_users(error: BaseException) -> str:
    """An exception in one line, for an event. The message of an HTTP client or a provider may hold a key in
    any form, so the log alone has it.
    """
    line = in_a_line(error)
    if not any(type(each).__module__.partition(".")[0] in FOREIGN for each in (error, *_members(error))):
        return line
    log.warning("client_failed", error=line)
    status = None
    with suppress(Exception):  # these may be properties that fail
        status = error.response.status_code  # type: ignore[attr-defined]
    answered = f" (HTTP {status})" if isinstance(status, int) else ""
    return f"{type(error).__name__}{answered}; its message is in the server's log"


def only_member(error: BaseException) -> BaseException:
    """The error inside groups of one; a custom group may contain itself."""
    for _ in range(MAX_CAUSES):
        if not isinstance(error, BaseExceptionGroup) or len(error.exceptions) != 1:
            break
        error = error.exceptions[0]
    return error


def in_a_line(error: BaseException) -> str:
    """An exception in one readable line, with the members of a group that it is or was raised from."""
    words = " ".join(words_of(error)[:MAX_WORDS].split())
    line = f"{type(error).__name__}: {words}" if words else type(error).__name__
    members = (f"{type(each).__name__}: {words_of(each)[:MAX_WORDS]}" for each in _members(error))
    if named := "; ".join(islice(dict.fromkeys(members), MAX_MEMBERS)):
        line = " ".join(f"{line}: {named}".split())
    return without_keys(line[:MAX_WORDS])


def _members(error: BaseException) -> Iterator[BaseException]:
    """The errors in the first group among an error and its causes, without the groups around them."""
    cause: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if cause is None or isinstance(cause, BaseExceptionGroup):
            break
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    waiting = list(cause.exceptions) if isinstance(cause, BaseExceptionGroup) else []
    for _ in range(MAX_CAUSES):  # a custom group may contain itself
        if not waiting:
            return
        member = waiting.pop(0)
        if isinstance(member, BaseExceptionGroup):
            waiting[:0] = member.exceptions
        else:
            yield member


def words_of(error: BaseException) -> str:
    """An exception's message. The `__str__` of a user's class may raise."""
    try:
        return str(error)
    except BaseException as another:
        return f"(its __str__ raised {type(another).__name__})"


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An error with its causes and members of groups, each once: causes may form a cycle."""
    seen: set[int] = set()
    waiting = deque([error])
    while waiting and len(seen) < MAX_CAUSES:
        error = waiting.popleft()
        if id(error) not in seen:
            seen.add(id(error))
            yield error
            members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
            waiting.extend(each for each in (*members, error.__cause__ or error.__context__) if each)
