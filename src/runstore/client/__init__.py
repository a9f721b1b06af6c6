"""A sync and an async client of the HTTP API. Both take their decisions from `calls` and `following`."""

from runstore.client.aio import AsyncClient
from runstore.client.calls import AuditFilters
from runstore.client.errors import (
    ApiError,
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    RateLimited,
    ServerUnreachable,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from runstore.client.records import ForkedRun, InputRecord, PendingRecord, RunRecord, Ticket
from runstore.client.sync import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "AuditFilters",
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "ForkedRun",
    "Gone",
    "InputRecord",
    "NotFound",
    "PendingRecord",
    "RateLimited",
    "RunRecord",
    "ServerUnreachable",
    "Ticket",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
]
