"""The usage of a run's model calls: a fold over its events, per model."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct, field

from runstore.core.codec import EncodedEvent, RecordedEvent
from runstore.core.depth import decoded
from runstore.core.events import Cancelled, Failed, ModelUsage, Started, Usage

MAX_MODELS = 64  # models of one run; further ones are counted together
MAX_MODEL = 128  # characters of a model's id
MAX_COUNT = 1_000_000_000  # tokens or milliseconds of one call; sums of them fit into 64 bits
OTHERS = "…"  # stands for the models or tools beyond the limit
WORKER_LOST = "worker_lost"  # code of a run that ended because no worker was left to take it
SUMS = (
    "calls", "incomplete", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
    "reasoning_tokens", "first_tokens", "first_token_ms", "duration_ms",
)  # fmt: skip
CALL_SUMS = tuple(name for name in SUMS if name != "incomplete")  # without the one that also counts runs


class RunUsage(Struct):
    """The usage of a run so far. `incomplete`: an answer broke off whose usage is unknown."""

    models: dict[str, ModelUsage] = field(default_factory=dict)
    incomplete: bool = False

    def add(self, event: EncodedEvent | RecordedEvent) -> None:
        """Fold in the run's next event."""
        match event.type:
            case Usage.type:
                self._count(decoded(_read_call, event.data))
            case Started.type:
                self.incomplete |= decoded(_read_started, event.data).discard_after_seq is not None
            case Cancelled.type:
                self.incomplete |= decoded(_read_cancelled, event.data).forced
            case Failed.type:
                self.incomplete |= decoded(_read_failed, event.data).code == WORKER_LOST

    def _count(self, call: "_Call") -> None:
        model = bounded(call.model or "", MAX_MODEL)
        if model not in self.models and len(self.models) >= MAX_MODELS:
            model = OTHERS
        self.models[model] = _plus(self.models.get(model) or ModelUsage(model), call)
        self.incomplete |= call.incomplete


def bounded(name: str, limit: int) -> str:
    """A name that a program chose, as every database can hold it: cut to `limit` characters."""
    name = name.replace("\0", "\ufffd")
    return name if len(name) <= limit else name[: limit - 1] + OTHERS


def counted(number: int) -> int:
    """A number that a program reported, as it is summed: from 0 to MAX_COUNT."""
    return number if 0 <= number <= MAX_COUNT else min(max(number, 0), MAX_COUNT)


def usage_of(events: Iterable[RecordedEvent]) -> RunUsage:
    """The usage of a run, from all its relevant events."""
    usage = RunUsage()
    for event in events:
        usage.add(event)
    return usage


class _Call(Struct, frozen=True, gc=False):
    """The fields of `llm.usage` that are summed."""

    input_tokens: int
    output_tokens: int
    model: str | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    first_token_ms: int | None = None
    duration_ms: int | None = None
    incomplete: bool = False


class _Started(Struct, frozen=True, gc=False):
    discard_after_seq: int | None = None


class _Cancelled(Struct, frozen=True, gc=False):
    forced: bool = False


class _Failed(Struct, frozen=True, gc=False):
    code: str


def _reader(cls: Any) -> Any:
    return msgspec.json.Decoder(cls).decode


_read_call = _reader(_Call)
_read_started = _reader(_Started)
_read_cancelled = _reader(_Cancelled)
_read_failed = _reader(_Failed)


def _plus(sum: ModelUsage, call: _Call) -> ModelUsage:
    return ModelUsage(
        model=sum.model,
        calls=sum.calls + 1,
        incomplete=sum.incomplete + call.incomplete,
        input_tokens=sum.input_tokens + counted(call.input_tokens),
        output_tokens=sum.output_tokens + counted(call.output_tokens),
        cache_read_tokens=sum.cache_read_tokens + counted(call.cache_read_tokens),
        cache_write_tokens=sum.cache_write_tokens + counted(call.cache_write_tokens),
        reasoning_tokens=sum.reasoning_tokens + counted(call.reasoning_tokens),
        first_tokens=sum.first_tokens + (call.first_token_ms is not None),
        first_token_ms=sum.first_token_ms + counted(call.first_token_ms or 0),
        duration_ms=sum.duration_ms + counted(call.duration_ms or 0),
    )
