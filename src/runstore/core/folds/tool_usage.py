"""A run's tool calls: a fold over its events, per agent and tool, with a histogram of their latency."""

from bisect import bisect_left
from collections.abc import Iterable

import msgspec
from msgspec import Struct, field

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.depth import decoded
from runstore.core.events import ENDINGS, ToolFailed, ToolFinished, ToolStarted, ToolUsage
from runstore.core.usage import OTHERS, bounded

# Upper limits of the latency buckets, in milliseconds; a call of exactly that duration is within.
BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000)
MAX_TOOLS = 256  # pairs of agent and tool of one run; further ones are counted together
MAX_OPEN = 1_024  # calls under way in one run; further ones have no latency
MAX_NAME = 255  # characters of an agent's path and of a tool's name
TOOL_TYPES = frozenset({ToolStarted.type, ToolFinished.type, ToolFailed.type})


class RunTools(Struct):
    """A run's tool calls so far. `open`: agent and tool use of each call under way → when it started."""

    tools: list[ToolUsage] = field(default_factory=list)
    open: dict[str, int] = field(default_factory=dict)

    def add(self, event: EncodedEvent | RecordedEvent) -> None:
        """Fold in the run's next event."""
        if event.type in TOOL_TYPES:
            call = decoded(_read_call, event.data)
            key = f"{call.agent}\n{call.call_id or ''}\n{call.tool_use_id}"
            if event.type == ToolStarted.type:
                if len(self.open) < MAX_OPEN:
                    self.open[key] = event.at
                self._change(call, calls=1)
            else:
                began = self.open.pop(key, None)
                latency = None if began is None else max(0, event.at - began)
                self._change(call, failures=int(event.type == ToolFailed.type), latency=latency)
        elif event.ends or event.type in ENDINGS:
            self.open.clear()

    def _change(
        self, call: "_Call", *, calls: int = 0, failures: int = 0, latency: int | None = None
    ) -> None:
        index = self._index(bounded(call.agent, MAX_NAME), bounded(call.name, MAX_NAME))
        known = self.tools[index]
        latencies = known.latencies
        if latency is not None:
            latencies = _counted(latencies, bisect_left(BUCKETS_MS, latency))
        self.tools[index] = ToolUsage(
            known.agent, known.tool, known.calls + calls, known.failures + failures,
            known.duration_ms + (latency or 0), latencies,
        )  # fmt: skip

    def _index(self, agent: str, tool: str) -> int:
        for index, known in enumerate(self.tools):
            if known.tool == tool and known.agent == agent:
                return index
        if len(self.tools) >= MAX_TOOLS and (agent, tool) != (OTHERS, OTHERS):
            return self._index(OTHERS, OTHERS)
        self.tools.append(ToolUsage(agent, tool))
        return len(self.tools) - 1


def tool_usage_of(events: Iterable[RecordedEvent]) -> list[ToolUsage]:
    """A run's tool calls, from all its events that matter here."""
    run = RunTools()
    for event in events:
        run.add(event)
    return run.tools


class _Call(Struct, frozen=True, gc=False):
    """The fields of a tool's event that name the call; its input and output are skipped."""

    agent: str
    tool_use_id: str
    name: str
    call_id: str | None = None


_read_call = msgspec.json.Decoder(_Call).decode


def _counted(latencies: tuple[int, ...], bucket: int) -> tuple[int, ...]:
    counts = [*latencies, *[0] * (bucket + 1 - len(latencies))]
    counts[bucket] += 1
    return tuple(counts)
