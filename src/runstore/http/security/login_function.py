"""Other logins: calls a configured function for each request."""

import asyncio
import importlib
import inspect
import operator
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import copy_context
from functools import lru_cache, partial
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import msgspec
import structlog
from starlette.requests import Request

from runstore.core.errors import Busy, ConfigError
from runstore.http.errors import Unauthorized
from runstore.http.security.users import Login, User
from runstore.threads import Threads

AUTHENTICATE_S = 10.0  # seconds that the function may take
LOGIN_THREADS = 256  # concurrent calls of a synchronous function; hanging calls keep their threads
LOGIN_SHARE = 16  # concurrent calls for similar requests
ADDRESS_SHARE = 192  # concurrent calls for one address or IPv6 network, so that others can still log in
LOGIN_WAIT_S = 2.0  # seconds that a call waits for a thread before the request is refused
RECHECK_S = 60.0  # seconds between two checks of an open stream

log = structlog.get_logger(__name__)


class LoginFunction:
    """The function that `authenticate` names.

    It may be sync or async, receives the starlette request, and returns the user: `runstore.User`, or an
    object with the same fields. None or a PermissionError refuses; any other error is an error of the server.
    """

    def __init__(self, function: Callable[[Request], Any]) -> None:
        self._function = function
        self._threads = Threads("runstore-login", LOGIN_THREADS, share=LOGIN_SHARE, wait_s=LOGIN_WAIT_S)
        self._calls = Counter[str]()  # running calls of each address
        self._lock = threading.Lock()

    @classmethod
    def load(cls, reference: str) -> "LoginFunction":
        """The function that `package.module:function` names.

        Raises:
            ConfigError: it does not exist, or importing it failed.
        """
        module, _, name = reference.partition(":")
        try:
            found = operator.attrgetter(name)(importlib.import_module(module))
        except Exception as error:  # the module may raise anything
            raise ConfigError(f"`authenticate`: cannot import {reference!r}: {error}") from error
        if not callable(found):
            raise ConfigError(f"`authenticate`: {reference!r} is not a function")
        return cls(found)

    async def login(self, request: Request) -> Login:
        """The sender of the request.

        Raises:
            Unauthorized: the function refuses.
            InvalidName: the user's name, or a workspace's, is not storable.
            Busy: the function does not answer, or too many calls wait.
        """
        return FunctionLogin(self, request, await self.ask(request))

    async def ask(self, request: Request) -> User:
        try:
            async with asyncio.timeout(AUTHENTICATE_S) as patience:
                found = await self._call(request)
        except TimeoutError as error:
            if not patience.expired():  # the function's own TimeoutError
                raise
            log.warning("authenticate_stalled", seconds=AUTHENTICATE_S)
            message = f"the login function has not answered within {AUTHENTICATE_S:g} s"
            raise Busy(message) from error
        except PermissionError as error:
            raise Unauthorized(str(error) or "the login was refused") from error
        except Exception:
            raise
        except BaseException as error:  # the function's own, unless this request is being cancelled
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            raise RuntimeError(f"`authenticate` raised {type(error).__name__}") from error
        if found is None:
            raise Unauthorized("the login was refused")
        try:
            return msgspec.convert(found, User, from_attributes=True)
        except msgspec.ValidationError as error:
            raise TypeError(f"`authenticate` must return a user, or None to refuse: {error}") from error

    async def _call(self, request: Request) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(request)
        call = partial(copy_context().run, self._call_in_thread, request)
        found = await self._threads.call(call, by=f"like {hash(tuple(request.headers.raw))}")
        return await found if inspect.isawaitable(found) else found

    def _call_in_thread(self, request: Request) -> Any:
        """A hanging call keeps its thread, even after its request was answered."""
        address = network_of(request)
        with self._lock:
            if self._calls[address] >= ADDRESS_SHARE:
                raise Busy(f"{ADDRESS_SHARE} calls of the login function from {address} have not ended")
            self._calls[address] += 1
        try:
            return self._function(request)
        finally:
            with self._lock:
                self._calls[address] -= 1
                if not self._calls[address]:
                    del self._calls[address]


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def network_of(request: Request) -> str:
    """The client's address, as forwarded by a trusted proxy; for IPv6 the client's /64 network."""
    return _network(request.client.host if request.client else "")


@lru_cache(maxsize=4096)
def _network(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return host
    return str(address.ipv4_mapped or ip_network((address.packed, 64), strict=False))


class FunctionLogin(Login):
    """Checked again every RECHECK_S seconds; the stream ends when the user changes or is refused."""

    def __init__(self, function: LoginFunction, request: Request, user: User) -> None:
        super().__init__(user)
        self._function = function
        self._request = request
        self._asked_at = time.monotonic()

    async def still_valid(self) -> bool:
        if time.monotonic() - self._asked_at < RECHECK_S:
            return True
        self._asked_at = time.monotonic()
        try:
            return await self._function.ask(self._request) == self.user
        except (Unauthorized, Busy):  # the client reconnects, and then receives the error
            return False
        except Exception:
            log.exception("authenticate_failed")
            return False
