"""An event-sourced run store for LLM agents behind an HTTP API.

It exports every name that programs need; tests import from `runstore.testing`. Import from no other module:
their names may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstore.client import ApiError as ApiError
    from runstore.client import AsyncClient as AsyncClient
    from runstore.client import AuditFilters as AuditFilters
    from runstore.client import Client as Client
    from runstore.client import ClientError as ClientError
    from runstore.client import Conflict as Conflict
    from runstore.client import Forbidden as Forbidden
    from runstore.client import ForkedRun as ForkedRun
    from runstore.client import Gone as Gone
    from runstore.client import InputRecord as InputRecord
    from runstore.client import NotFound as NotFound
    from runstore.client import PendingRecord as PendingRecord
    from runstore.client import RateLimited as RateLimited
    from runstore.client import RunRecord as RunRecord
    from runstore.client import ServerUnreachable as ServerUnreachable
    from runstore.client import Ticket as Ticket
    from runstore.client import Unauthorized as Unauthorized
    from runstore.client import Unavailable as Unavailable
    from runstore.client import UnexpectedAnswer as UnexpectedAnswer
    from runstore.core.audit import AuditEvent as AuditEvent
    from runstore.core.audit import AuditQuery as AuditQuery
    from runstore.core.codec import RecordedEvent as RecordedEvent
    from runstore.core.codec import decode as decode
    from runstore.core.errors import AgentError as AgentError
    from runstore.core.errors import AgentNotFound as AgentNotFound
    from runstore.core.errors import AlreadyStarted as AlreadyStarted
    from runstore.core.errors import AppendRefused as AppendRefused
    from runstore.core.errors import Busy as Busy
    from runstore.core.errors import ConfigError as ConfigError
    from runstore.core.errors import EventTooDeep as EventTooDeep
    from runstore.core.errors import EventTooLarge as EventTooLarge
    from runstore.core.errors import IdempotencyConflict as IdempotencyConflict
    from runstore.core.errors import InputClosed as InputClosed
    from runstore.core.errors import InputNotFound as InputNotFound
    from runstore.core.errors import InvalidAnswer as InvalidAnswer
    from runstore.core.errors import InvalidCursor as InvalidCursor
    from runstore.core.errors import InvalidEvent as InvalidEvent
    from runstore.core.errors import InvalidName as InvalidName
    from runstore.core.errors import InvalidQuery as InvalidQuery
    from runstore.core.errors import LeaseLost as LeaseLost
    from runstore.core.errors import LimitExceeded as LimitExceeded
    from runstore.core.errors import LogUnavailable as LogUnavailable
    from runstore.core.errors import ProjectionFailed as ProjectionFailed
    from runstore.core.errors import ProjectionNotBuilt as ProjectionNotBuilt
    from runstore.core.errors import RequestNotFound as RequestNotFound
    from runstore.core.errors import RunActive as RunActive
    from runstore.core.errors import RunClosed as RunClosed
    from runstore.core.errors import RunDeleted as RunDeleted
    from runstore.core.errors import RunNotFound as RunNotFound
    from runstore.core.errors import RunPurged as RunPurged
    from runstore.core.errors import RunstoreError as RunstoreError
    from runstore.core.errors import SchemaMismatch as SchemaMismatch
    from runstore.core.errors import SessionBusy as SessionBusy
    from runstore.core.errors import TooLarge as TooLarge
    from runstore.core.errors import Unheard as Unheard
    from runstore.core.errors import WrongExpectedSeq as WrongExpectedSeq
    from runstore.core.events import AgentFinished as AgentFinished
    from runstore.core.events import AgentStarted as AgentStarted
    from runstore.core.events import Custom as Custom
    from runstore.core.events import Event as Event
    from runstore.core.events import Message as Message
    from runstore.core.events import Reasoning as Reasoning
    from runstore.core.events import Token as Token
    from runstore.core.events import ToolFailed as ToolFailed
    from runstore.core.events import ToolFinished as ToolFinished
    from runstore.core.events import ToolProgress as ToolProgress
    from runstore.core.events import ToolStarted as ToolStarted
    from runstore.core.events import Unknown as Unknown
    from runstore.core.events import Usage as Usage
    from runstore.core.folds.trace import Trace as Trace
    from runstore.core.folds.trace import TraceAgent as TraceAgent
    from runstore.core.folds.trace import TraceAttempt as TraceAttempt
    from runstore.core.folds.trace import TraceError as TraceError
    from runstore.core.folds.trace import TraceStep as TraceStep
    from runstore.core.folds.transcript import Transcript as Transcript
    from runstore.core.folds.transcript import text as text
    from runstore.core.model_requests import MessageSource as MessageSource
    from runstore.core.model_requests import ModelRequest as ModelRequest
    from runstore.core.model_requests import RequestSummary as RequestSummary
    from runstore.core.ports import EventFilter as EventFilter
    from runstore.core.ports import RunContext as RunContext
    from runstore.core.questions import Question as Question
    from runstore.core.records import EventRecord as EventRecord
    from runstore.core.run import Actor as Actor
    from runstore.core.run import PendingInput as PendingInput
    from runstore.core.run import Run as Run
    from runstore.http.security.users import User as User
    from runstore.library import LocalStore as LocalStore
    from runstore.library import open as open
    from runstore.library import open_projections as open_projections
    from runstore.maintenance.projection_status import ProjectionStatus as ProjectionStatus
    from runstore.maintenance.projections import LocalProjections as LocalProjections
    from runstore.maintenance.projections import Projections as Projections
    from runstore.maintenance.rebuild import ProjectionReport as ProjectionReport
    from runstore.mount import MountedApp as MountedApp
    from runstore.projections.builds import ProjectionFault as ProjectionFault
    from runstore.projections.comparison import DifferingKey as DifferingKey
    from runstore.projections.comparison import TableDifference as TableDifference
    from runstore.projections.projection import Projection as Projection
    from runstore.projections.runner import ProjectionRunner as ProjectionRunner
    from runstore.projections.runs import RunQuery as RunQuery
    from runstore.runtime.catalog.specs import AgentSpec as AgentSpec
    from runstore.runtime.memory.at_most_once import at_most_once as at_most_once
    from runstore.runtime.own_run import OwnRun as OwnRun
    from runstore.runtime.replay.follower import ReplayDifference as ReplayDifference
    from runstore.store.replays import Replayed as Replayed

__version__ = "0.1.0"

# Imported on first use: a client needs no database, and a store needs no HTTP client.
_EXPORTS = {
    name: module
    for module, names in {
        "runstore.core.codec": "RecordedEvent decode",
        "runstore.maintenance.projection_status": "ProjectionStatus",
        "runstore.maintenance.projections": "LocalProjections Projections",
        "runstore.maintenance.rebuild": "ProjectionReport",
        "runstore.projections.builds": "ProjectionFault",
        "runstore.projections.comparison": "DifferingKey TableDifference",
        "runstore.projections.projection": "Projection",
        "runstore.projections.runner": "ProjectionRunner",
        "runstore.client": "ApiError AsyncClient AuditFilters Client ClientError Conflict Forbidden "
        "ForkedRun Gone InputRecord NotFound PendingRecord RateLimited RunRecord ServerUnreachable Ticket "
        "Unauthorized Unavailable UnexpectedAnswer",
        "runstore.core.model_requests": "MessageSource ModelRequest RequestSummary",
        "runstore.core.audit": "AuditEvent AuditQuery",
        "runstore.core.errors": "AgentError AgentNotFound AlreadyStarted AppendRefused Busy ConfigError "
        "EventTooDeep EventTooLarge IdempotencyConflict InputClosed InputNotFound InvalidAnswer "
        "InvalidCursor InvalidEvent InvalidName InvalidQuery "
        "LeaseLost LimitExceeded LogUnavailable ProjectionNotBuilt RunActive RunClosed RunDeleted "
        "RequestNotFound RunNotFound RunPurged "
        "ProjectionFailed RunstoreError SchemaMismatch SessionBusy TooLarge Unheard WrongExpectedSeq",
        "runstore.core.events": "AgentFinished AgentStarted Custom Event Message Reasoning Token ToolFailed "
        "ToolFinished ToolProgress ToolStarted Unknown Usage",
        "runstore.core.ports": "RunContext EventFilter",
        "runstore.core.questions": "Question",
        "runstore.core.records": "EventRecord",
        "runstore.core.run": "Actor PendingInput Run",
        "runstore.core.folds.trace": "Trace TraceAgent TraceAttempt TraceError TraceStep",
        "runstore.core.folds.transcript": "Transcript text",
        "runstore.http.security.users": "User",
        "runstore.library": "LocalStore open open_projections",
        "runstore.mount": "MountedApp",
        "runstore.projections.runs": "RunQuery",
        "runstore.runtime.catalog.specs": "AgentSpec",
        "runstore.runtime.memory.at_most_once": "at_most_once",
        "runstore.runtime.own_run": "OwnRun",
        "runstore.runtime.replay.follower": "ReplayDifference",
        "runstore.store.replays": "Replayed",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
