"""Limits on one request, one user and one run. A refusal names the limit."""

from msgspec import Struct

from runstore.core.codec import MAX_EVENT_BYTES

MAX_BODY_BYTES = 256 << 20  # largest `body_bytes`, as bodies are read into memory
MAX_EVENTS_PER_APPEND = 1_000  # an append is stored whole or not at all
MAX_FILTER_TYPES = 100  # names in a filter of events, as each becomes a condition of a query
MAX_RUN_TIMEOUT_S = 30 * 24 * 3_600  # seconds: 30 days, longer than an agent works in one attempt
MAX_INPUT_TIMEOUT_S = 366 * 86_400  # seconds that a run may wait for a person: a year


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`"""

    body_bytes: int = 8 << 20  # bytes of a request's body
    input_bytes: int = MAX_EVENT_BYTES  # bytes of a run's input, as JSON
    event_bytes: int = MAX_EVENT_BYTES  # bytes of the data of an event that a client appends, as JSON
    events_per_append: int = MAX_EVENTS_PER_APPEND
    inputs_per_run: int = 1_000  # messages that people add to a run
    runs_per_user: int = 1_000  # active runs, across all processes of the database
    hierarchies_per_user: int = 1_000  # hierarchies that are not deleted
    subscribers_per_run: int = 2_000  # open streams, in each process
    subscribers_per_user: int = 2_000  # open streams, in each process
    run_timeout_s: float = 86_400  # seconds, for an agent without its own timeout
    max_run_timeout_s: float = MAX_RUN_TIMEOUT_S  # seconds, at most, for an agent's own timeout

    def __post_init__(self) -> None:
        for name, low, high in (
            ("body_bytes", 1_024, MAX_BODY_BYTES),
            ("input_bytes", 1, MAX_EVENT_BYTES),
            ("event_bytes", 1, MAX_EVENT_BYTES),
            ("events_per_append", 1, MAX_EVENTS_PER_APPEND),
            ("inputs_per_run", 1, 1_000),
            ("runs_per_user", 1, 1_000_000),
            ("hierarchies_per_user", 1, 1_000_000),
            ("subscribers_per_run", 1, 1_000_000),
            ("subscribers_per_user", 1, 1_000_000),
            ("run_timeout_s", 0.001, MAX_RUN_TIMEOUT_S),
            ("max_run_timeout_s", 0.001, MAX_RUN_TIMEOUT_S),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` must be from {low:,} to {high:,}, not {getattr(self, name):,}")
        if self.run_timeout_s > self.max_run_timeout_s:
            raise ValueError("`run_timeout_s` must not be more than `max_run_timeout_s`")
