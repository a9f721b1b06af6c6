"""Prometheus metrics, computed on request from the log's counts and the current state.

Each runtime has its own registry, so two runtimes in one process do not share metrics.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, get_args

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)  # fmt: skip
from prometheus_client.registry import Collector, CollectorRegistry

from runstore import __version__
from runstore.core.events import Outcome, StartReason
from runstore.eventlog.metered import Histogram
from runstore.eventlog.sql import SqlEventLog
from runstore.feed.memory import MemoryFeed
from runstore.projections.runner import ProjectionRunner
from runstore.runtime.process.agent_processes import AgentProcesses
from runstore.runtime.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from runstore.feed.redis.feed import RedisFeed


class Metrics(Collector):
    """The metrics of one runtime."""

    def __init__(
        self,
        event_log: SqlEventLog,
        feed: "MemoryFeed | RedisFeed",
        supervisor: Supervisor,
        projections: ProjectionRunner | None,
    ) -> None:
        self._log = event_log
        self._feed = feed
        self._supervisor = supervisor
        self._projections = projections
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def expose(self, accept: str) -> tuple[bytes, str]:
        """All metrics in a format that an `Accept` header asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield _gauge("runstore_build", "The running release, always 1.", "version", {__version__: 1})
        yield from self._runs()
        yield from self._cancels()
        yield from self._commits()
        yield from self._queue()
        if self._projections is not None:
            yield _gauge(
                "runstore_projection_lag_events",
                "Events that a projection has not applied yet, at most.",
                "projection",
                self._projections.lags,
            )
            yield _gauge(
                "runstore_projection_lag_seconds",
                "Age of the first event that a projection has not applied yet.",
                "projection",
                self._projections.lags_s,
            )
            yield _gauge(
                "runstore_projection_failed",
                "1 while a projection has stopped at an event that it refuses.",
                "projection",
                self._projections.failed,
            )
        if (replica := self._log.database.replica) is not None:
            reads = {"replica": replica.answered, "primary": replica.fallbacks}
            yield _gauge("runstore_replica_usable", "1 while the read replica answers.", value=replica.usable)
            yield _counters("runstore_replica_reads", "Reads for the replica.", "answered_by", reads)
        if not isinstance(self._feed, MemoryFeed):
            yield from self._redis(self._feed)

    def _runs(self) -> Iterator[Metric]:
        supervisor, counts = self._supervisor, self._log.counts
        states = {"active": supervisor.running, "queued": supervisor.waiting}
        ended = {status: counts.ended[status] for status in get_args(Outcome)}
        reasons = {reason: counts.attempts[reason] for reason in get_args(StartReason)}
        yield _gauge("runstore_runs", "Runs of this process, running or waiting for a slot.", "state", states)
        yield _counter("runstore_runs_queued", "Runs that were created.", counts.queued)
        yield _counters("runstore_attempts", "Attempts that were started.", "reason", reasons)
        yield _counters("runstore_runs_ended", "Runs that ended.", "status", ended)
        yield _counter(
            "runstore_runs_forced", "Runs closed without waiting for their agent.", supervisor.forced
        )
        yield _gauge(
            "runstore_agents_abandoned",
            "Agents still running after their run was closed by force.",
            value=supervisor.abandoned,
        )
        yield _gauge(
            "runstore_threads_abandoned",
            "Threads still working for an ended run, or held by its agent.",
            value=supervisor.abandoned_threads,
        )
        yield _counter("runstore_loops_blocked", "Agents that blocked their loop.", supervisor.blocked_loops)
        yield _gauge("runstore_processes", "Agents' processes.", value=supervisor.processes.running)
        yield _counter(
            "runstore_processes_killed", "Agents' processes that were killed.", supervisor.processes.killed
        )

        if supervisor.shared is not None:
            yield from self._agent_processes(supervisor.shared)

    def _agent_processes(self, shared: AgentProcesses) -> Iterator[Metric]:
        yield _gauge("runstore_agent_processes", "Processes that agents share.", value=shared.running)
        yield _gauge(
            "runstore_agent_processes_available",
            "Shared agent processes that accept runs.",
            value=shared.open,
        )
        yield _counter(
            "runstore_agent_processes_lost", "Processes of agents that ended unexpectedly.", shared.lost
        )

    def _cancels(self) -> Iterator[Metric]:
        counts = self._log.counts
        late = {code: counts.late_events[code] for code in ("run_closed", "lease_lost")}
        yield _counter("runstore_cancels", "Stop requests that were stored.", counts.cancels)
        yield _histogram(
            "runstore_cancel_seconds", "Time from a stop request to the run's ending.", counts.cancel_seconds
        )
        yield _counters(
            "runstore_late_events_refused",
            "Refused events of agents that no longer own their run.",
            "reason",
            late,
        )

    def _commits(self) -> Iterator[Metric]:
        counts = self._log.counts
        outcomes = {outcome: counts.appends[outcome] for outcome in ("stored", "refused")}
        yield _counters("runstore_appends", "Appends that the writer settled.", "outcome", outcomes)
        yield _counter("runstore_events", "Events that were stored.", counts.events)
        yield _histogram("runstore_commit_events", "Events per commit.", counts.commit_events)
        yield _histogram("runstore_commit_seconds", "Duration of a commit.", counts.commit_seconds)
        yield _counter("runstore_commit_failures", "Commits that failed.", counts.commit_failures)
        yield _histogram(
            "runstore_publish_lag_seconds",
            "Time from the creation of a commit's oldest event to the waking of its readers.",
            counts.publish_lag,
        )

    def _queue(self) -> Iterator[Metric]:
        events, size = self._log.waiting
        unavailable = self._log.unavailable is not None
        yield _gauge("runstore_queue_events", "Events waiting to be committed.", value=events)
        yield _gauge(
            "runstore_queue_bytes", "Bytes of data of the events waiting to be committed.", value=size
        )
        yield _gauge("runstore_log_unavailable", "1 while the log takes no writes.", value=unavailable)
        yield _gauge("runstore_subscribers", "Open streams.", value=self._feed.subscribers)
        yield _gauge("runstore_runs_followed", "Runs that have open streams.", value=self._feed.followed)

    def _redis(self, feed: "RedisFeed") -> Iterator[Metric]:
        yield _gauge("runstore_redis_connected", "1 while Redis accepts commands.", value=feed.connected)
        yield _counter("runstore_redis_reconnects", "Times that Redis recovered.", feed.reconnects)
        yield _counter(
            "runstore_redis_published", "Parts of commits published to other processes.", feed.published
        )
        yield _counter(
            "runstore_redis_dropped", "Parts of commits that others find only in the log.", feed.dropped
        )


def _gauge(
    name: str, help: str, label: str = "", values: Mapping[str, float] | None = None, *, value: float = 0
) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label] if label else None)
    for labelled, number in ({"": value} if values is None else values).items():
        family.add_metric([labelled] if label else [], number)
    return family


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(name, help, value=value)


def _counters(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, help, labels=[label])
    for labelled, value in values.items():
        family.add_metric([labelled], value)
    return family


def _histogram(name: str, help: str, counted: Histogram) -> Metric:
    return HistogramMetricFamily(name, help, buckets=counted.buckets(), sum_value=counted.sum)
