"""A real server, and both clients: the tests of the one are those of the other."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from runstore import AsyncClient, Client
from tests.http.conftest import closed_run, deleted_run, running_server, server, silent_run  # noqa: F401
from tests.kit.server import ServerProcess

Connect = Callable[..., Any]


class Blocking:
    """An AsyncClient that is used as a Client: its loop runs in a thread of its own."""

    def __init__(self, portal: BlockingPortal, client: AsyncClient) -> None:
        self._portal = portal
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("stream", "list", "events", "requests", "inputs", "audit", "follow_audit"):
            return lambda *arguments, **options: self._iterate(method(*arguments, **options))
        return lambda *arguments, **options: self._portal.call(lambda: method(*arguments, **options))

    def _iterate(self, items: Any) -> Iterator[Any]:
        try:
            while True:
                yield self._portal.call(items.__anext__)
        except StopAsyncIteration:
            pass
        finally:
            self._portal.call(items.aclose)


@contextmanager
def _blocking(*arguments: Any, **options: Any) -> Iterator[Blocking]:
    with start_blocking_portal() as portal:
        client = portal.call(lambda: _made(*arguments, **options))
        try:
            yield Blocking(portal, client)
        finally:
            portal.call(client.aclose)


async def _made(*arguments: Any, **options: Any) -> AsyncClient:
    return AsyncClient(*arguments, **options)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """`connect(url, …)` gives a client, which is closed in the end; once of each kind."""
    kinds = {"sync": Client, "async": _blocking}
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(kinds[request.param](*arguments, **options))


@pytest.fixture
def client(connect: Connect, server: ServerProcess) -> Any:  # noqa: F811
    return connect(str(server.http.base_url))
