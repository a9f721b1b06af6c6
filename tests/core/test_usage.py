"""The sums of a run's model and tool calls, for its summary and the projections."""

from runstore.core.codec import RecordedEvent, encode
from runstore.core.events import (
    Cancelled,
    Event,
    Failed,
    ModelUsage,
    Started,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    ToolUsage,
    Usage,
)
from runstore.core.folds.tool_usage import MAX_OPEN, MAX_TOOLS, RunTools, tool_usage_of
from runstore.core.usage import MAX_COUNT, MAX_MODELS, OTHERS, usage_of
from tests.kit.events import CANCELLED, FAILED, started


def recorded(*events: Event | tuple[int, Event]) -> list[RecordedEvent]:
    """Events of one run; some with their time."""
    timed = [event if isinstance(event, tuple) else (0, event) for event in events]
    return [
        RecordedEvent("r", seq, 0, event.type, event.version, event.ends, at, encode(event).data)
        for seq, (at, event) in enumerate(timed, 1)
    ]


def called(model: str | None = "m", **fields: int) -> Usage:
    return Usage(agent="demo", model=model, **{"input_tokens": 0, "output_tokens": 0, **fields})  # type: ignore[arg-type]


def test_the_calls_of_each_model_are_summed() -> None:
    first = called(input_tokens=5, output_tokens=2, cache_read_tokens=3, first_token_ms=0, duration_ms=9)
    second = called(input_tokens=1, output_tokens=1, reasoning_tokens=1)
    usage = usage_of(recorded(first, second, called(None, output_tokens=4)))
    assert list(usage.models.values()) == [
        ModelUsage(
            "m", calls=2, input_tokens=6, output_tokens=3, cache_read_tokens=3, reasoning_tokens=1,
            first_tokens=1, duration_ms=9,
        ),
        ModelUsage("", calls=1, output_tokens=4),
    ]  # fmt: skip
    assert not usage.incomplete


def test_a_run_is_incomplete_if_an_answer_broke_off() -> None:
    broken_off = Usage(agent="demo", input_tokens=0, output_tokens=0, incomplete=True)
    lost = Failed(code="worker_lost", message="")
    resumed = Started(worker_id="w", attempt=2, reason="adopted", discard_after_seq=3)
    for event in (broken_off, lost, resumed, Cancelled(reason="user", forced=True)):
        assert usage_of(recorded(started(), event)).incomplete
    assert not usage_of(recorded(started(), FAILED)).incomplete
    assert not usage_of(recorded(started(), CANCELLED)).incomplete


def test_a_count_that_no_call_can_have_is_cut() -> None:
    absurd = called(input_tokens=10**30, output_tokens=-5, first_token_ms=-1, duration_ms=1 << 63)
    usage = usage_of(recorded(called(output_tokens=2), absurd))
    assert usage.models["m"] == ModelUsage(
        "m", calls=2, input_tokens=MAX_COUNT, output_tokens=2, first_tokens=1, duration_ms=MAX_COUNT
    )


def test_names_and_numbers_of_models_are_bounded() -> None:
    usage = usage_of(recorded(*(called(f"m{i}\0" + "x" * 200) for i in range(MAX_MODELS + 3))))
    assert len(usage.models) == MAX_MODELS + 1
    assert usage.models[OTHERS].calls == 3
    assert all(len(name) <= 128 and "\0" not in name for name in usage.models)


def call(use: str, name: str = "add") -> dict[str, str]:
    return {"agent": "demo", "tool_use_id": use, "name": name}


def test_a_tools_calls_failures_and_latencies_are_counted() -> None:
    events: list[tuple[int, Event]] = [
        (100, ToolStarted(**call("a"))),
        (101, ToolStarted(**call("b"))),
        (105, ToolFinished(**call("a"))),
        (351, ToolFailed(**call("b"))),
        (400, ToolStarted(**call("c"))),
        (400, ToolFailed(**call("d", "sub"))),
    ]
    tools = tool_usage_of(recorded(*events))
    assert tools == [
        ToolUsage("demo", "add", calls=3, failures=1, duration_ms=255, latencies=(1, 0, 0, 0, 0, 1)),
        ToolUsage("demo", "sub", failures=1),
    ]


def test_calls_with_equal_ids_that_agents_make_at_once_are_timed_apart() -> None:
    events: list[tuple[int, Event]] = [
        (100, ToolStarted(**call("a"), call_id="one")),
        (200, ToolStarted(**call("a"), call_id="two")),
        (210, ToolFinished(**call("a"), call_id="two")),
        (400, ToolFinished(**call("a"), call_id="one")),
    ]
    [tool] = tool_usage_of(recorded(*events))
    assert tool.duration_ms == 310


def test_the_tools_and_open_calls_of_a_run_are_bounded() -> None:
    run = RunTools()
    for event in recorded(*(ToolStarted(**call(f"u{i}", f"t{i}")) for i in range(MAX_OPEN + 5))):
        run.add(event)
    assert (len(run.tools), len(run.open)) == (MAX_TOOLS + 1, MAX_OPEN)
    assert sum(tool.calls for tool in run.tools) == MAX_OPEN + 5
    run.add(recorded(CANCELLED)[0])
    assert not run.open
