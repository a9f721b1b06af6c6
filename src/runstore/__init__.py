"""An event-sourced run store for LLM agents behind an HTTP API."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstore.client import ApiError as ApiError
    from runstore.client import AsyncClient as AsyncClient
    from runstore.client import Client as Client
    from runstore.client import ClientError as ClientError
    from runstore.client import RunRecord as RunRecord
    from runstore.core.errors import RunstoreError as RunstoreError
    from runstore.core.events import Custom as Custom
    from runstore.core.records import EventRecord as EventRecord
    from runstore.core.transcript import Transcript as Transcript
    from runstore.core.transcript import text as text
    from runstore.library import LocalStore as LocalStore
    from runstore.library import open as open
    from runstore.mount import MountedApp as MountedApp
    from runstore.runtime.at_most_once import at_most_once as at_most_once

__version__ = "0.1.0"

# Imported when they are first asked for: a client needs no database, a store no HTTP client.
_EXPORTS = {
    "ApiError": "runstore.client",
    "AsyncClient": "runstore.client",
    "Client": "runstore.client",
    "ClientError": "runstore.client",
    "Custom": "runstore.core.events",
    "EventRecord": "runstore.core.records",
    "LocalStore": "runstore.library",
    "MountedApp": "runstore.mount",
    "RunRecord": "runstore.client",
    "RunstoreError": "runstore.core.errors",
    "at_most_once": "runstore.runtime.at_most_once",
    "Transcript": "runstore.core.transcript",
    "open": "runstore.library",
    "text": "runstore.core.transcript",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
