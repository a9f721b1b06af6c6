"""Every error that runstore raises on purpose.

RunstoreError
├── InvalidEvent            the event cannot be stored
│   ├── EventTooLarge
│   └── EventTooDeep
├── InvalidName             no database can hold this name
├── AppendRefused           the log refused the append and stored nothing of it
│   ├── WrongExpectedSeq    another writer was first
│   ├── RunClosed           the run has its ending
│   ├── LeaseLost           a newer attempt owns the run
│   └── Unheard             the agent ends, but a person added a message that it has not taken
├── RunNotFound
├── RequestNotFound         the run has fewer model requests
├── RunDeleted
├── RunPurged               its events were removed, because of their age or to erase a person
├── RunActive               only a closed run can be deleted
├── InvalidQuery            a question that cannot be answered: its words or columns
├── InvalidCursor           a cursor ahead of the log, or a malformed one
├── LimitExceeded           one of the limits in the configuration
│   └── TooLarge            larger than the limit ever allows
├── IdempotencyConflict     the key came before with another body
├── AlreadyStarted          the key came before with this body, and has its run
├── SessionBusy             another run of the session comes first
├── InputNotFound           the run has no such request for input
├── InputClosed             the request was answered, has expired, or its run has ended or is to stop
├── InvalidAnswer           the answer does not match the request's schema
├── AgentNotFound
├── AgentError              the user's agent, model or factory failed
├── ProjectionNotBuilt      no process has filled its tables yet
├── Busy                    too many requests of one kind are in progress
├── LogUnavailable          the log cannot be read or written now
├── ProjectionFailed        a projection refused an event
├── SchemaMismatch          the database belongs to another release
└── ConfigError             the configuration is wrong: the fault, its place, the valid values
"""

UNAVAILABLE_RETRY_S = 1.0  # seconds between two tries while the log cannot be read or written


class RunstoreError(Exception):
    """runstore cannot fulfil the request."""

    code = "error"

    def __str__(self) -> str:
        return super().__str__() or (self.__doc__ or "").splitlines()[0]


class InvalidEvent(RunstoreError):
    """The event cannot be stored."""

    code = "invalid_event"


class EventTooLarge(InvalidEvent):
    """The event exceeds the size limit."""

    code = "event_too_large"
    limit = "event_bytes"


class EventTooDeep(InvalidEvent):
    """The event exceeds the nesting limit."""

    code = "event_too_deep"


class InvalidName(RunstoreError):
    """No database can hold the name."""

    code = "invalid_name"


class AppendRefused(RunstoreError):
    """The log refused the append."""

    code = "append_refused"

    def __init__(self, run_id: str, head: int, message: str) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.head = head


class WrongExpectedSeq(AppendRefused):
    """The run's head is not at the expected seq."""

    code = "wrong_expected_seq"

    def __init__(self, run_id: str, head: int, expected: int) -> None:
        super().__init__(run_id, head, f"expected seq {expected}, but the head of run {run_id} is {head}")
        self.expected = expected


class RunClosed(AppendRefused):
    """The run has ended and takes no more events."""

    code = "run_closed"

    def __init__(self, run_id: str, head: int) -> None:
        super().__init__(run_id, head, f"run {run_id} ended at seq {head} and takes no more events")


class LeaseLost(AppendRefused):
    """A newer attempt owns the run."""

    code = "lease_lost"

    def __init__(self, run_id: str, head: int, attempt: int, current: int) -> None:
        super().__init__(run_id, head, f"attempt {attempt} of run {run_id} was replaced by attempt {current}")


class Unheard(AppendRefused):
    """A person added a message that the agent has not taken. `added`: the seq of the last one."""

    code = "unheard"

    def __init__(self, run_id: str, head: int, added: int) -> None:
        super().__init__(run_id, head, f"the agent of run {run_id} has not taken the message at seq {added}")
        self.added = added


class RunNotFound(RunstoreError):
    """There is no such run."""

    code = "run_not_found"


class RequestNotFound(RunstoreError):
    """The run has no such model request."""

    code = "request_not_found"


class RunDeleted(RunstoreError):
    """The run was deleted."""

    code = "run_deleted"


class RunPurged(RunstoreError):
    """The run's events were removed, because of their age or to erase a person."""

    code = "run_purged"

    def __init__(self, run_id: str) -> None:
        why = "because of their age or to erase a person"
        super().__init__(f"run {run_id} was purged: its events were removed, {why}")


class RunActive(RunstoreError):
    """The run has not ended yet."""

    code = "run_active"


class InvalidQuery(RunstoreError):
    """The question cannot be answered."""

    code = "invalid_query"


class InvalidCursor(RunstoreError):
    """The cursor is not a position in this run."""

    code = "invalid_cursor"


class LimitExceeded(RunstoreError):
    """A limit was reached. `limit`: its name in the configuration."""

    code = "limit_exceeded"

    def __init__(self, limit: str, message: str, *, code: str = "limit_exceeded") -> None:
        super().__init__(message)
        self.limit = limit
        self.code = code


class TooLarge(LimitExceeded):
    """A request exceeds a limit in size; unlike with an exhausted quota, a retry cannot succeed."""


class IdempotencyConflict(RunstoreError):
    """The idempotency key was used with another body."""

    code = "idempotency_conflict"


class AlreadyStarted(RunstoreError):
    """The idempotency key was used with the same body; `run_id` is the run that it started."""

    code = "already_started"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} was started with this idempotency key")
        self.run_id = run_id


class SessionBusy(RunstoreError):
    """Another run of the session comes first. `run_id`: the run that must end before."""

    code = "session_busy"

    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__(f"session {session_id!r} is busy with run {run_id}")
        self.run_id = run_id


class InputNotFound(RunstoreError):
    """The run has no such request for input."""

    code = "input_not_found"


class InputClosed(RunstoreError):
    """The request for input takes no answer any more, or the run no added message, as it is to stop."""

    code = "input_closed"


class InvalidAnswer(RunstoreError):
    """The answer does not match the request's schema. `field`: the place of the fault in the body."""

    code = "invalid_answer"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class AgentNotFound(RunstoreError):
    """There is no such agent."""

    code = "agent_not_found"


class AgentError(RunstoreError):
    """The agent failed."""

    code = "agent_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code


class ProjectionNotBuilt(RunstoreError):
    """No process has filled this version of this projection yet. Its name is the argument."""

    code = "projection_not_built"

    def __str__(self) -> str:
        return f"projection {self.args[0]!r} is not built yet: start a server or worker with --projections"


class Busy(RunstoreError):
    """Too many requests of one kind are in progress, or one of them hangs."""

    code = "server_busy"


class LogUnavailable(RunstoreError):
    """The log cannot be read or written at the moment."""

    code = "log_unavailable"


class ProjectionFailed(RunstoreError):
    """A projection refused an event."""

    code = "projection_failed"


class SchemaMismatch(RunstoreError):
    """The database's schema is not the one that this release uses."""

    code = "schema_mismatch"


class ConfigError(RunstoreError):
    """The configuration is wrong. `setting`: the setting of `[server]` that turned out wrong on use."""

    code = "config_error"

    def __init__(self, message: str = "", *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting
