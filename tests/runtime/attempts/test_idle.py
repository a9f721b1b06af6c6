"""When an agent is idle: not while the log makes it wait."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from runstore.core.codec import encode
from runstore.core.events import Custom, Retrying, Token, ToolFailed, ToolFinished
from runstore.runtime.attempts import recorder as recorder_module
from runstore.runtime.attempts.announced_waits import MAX_WAIT_S
from runstore.runtime.attempts.recorder import Recorder

WORD = Token(agent="a", text="hi")


class FullLog:
    """A log that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.freed = asyncio.Event()

    def offer(self, *arguments: Any, **options: Any) -> bool:
        return self.freed.is_set()

    async def room(self, run_id: str) -> None:
        await self.append()

    async def append(self, *arguments: Any, **options: Any) -> int:
        self.asked.set()
        await self.freed.wait()
        return 1


@pytest.mark.parametrize("way", ["record", "commit"])
async def test_an_agent_that_waits_for_the_log_is_not_idle(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(recorder_module.time, "monotonic", lambda: now)
    log: Any = FullLog()
    recorder = Recorder(log, "run-1", 1)
    now += 5
    assert recorder.idle_s == 5
    saying = asyncio.create_task(getattr(recorder, way)(WORD))
    await log.asked.wait()
    now += 60
    assert recorder.idle_s == 0
    log.freed.set()
    await saying
    assert recorder.idle_s == 0
    now += 7
    assert recorder.idle_s == 7


async def test_the_wait_before_a_model_is_called_again_does_not_count_as_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr(recorder_module.time, "monotonic", lambda: now)
    log: Any = FullLog()
    log.freed.set()
    recorder = Recorder(log, "run-1", 1)
    retrying = Retrying(agent="a", code="model_throttled", message="busy", attempt=1, wait_s=64)
    await recorder.commit(retrying)
    now += 64
    assert recorder.idle_s == 0
    now += 7
    assert recorder.idle_s == 7
    await recorder.commit(encode(replace(retrying, wait_s=1e9)))  # as an agent's process sends it
    now += MAX_WAIT_S + 7
    assert recorder.idle_s == 7
    await recorder.commit(retrying)
    await recorder.record(WORD)  # it did not wait so long
    now += 3
    assert recorder.idle_s == 3


class Moments:
    """A recorder whose log takes everything, and the clock that it looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(recorder_module.time, "monotonic", lambda: self.now)
        log: Any = FullLog()
        log.freed.set()
        self.recorder = Recorder(log, "run-1", 1)


WAITS = Retrying(agent="a/b", call_id="t1", code="model_throttled", message="busy", attempt=1, wait_s=64)


@pytest.mark.parametrize("own_process", [False, True])
@pytest.mark.parametrize(
    "beside",
    [
        Token(agent="a/c", text="hi"),
        Token(agent="a/b", call_id="t2", text="hi"),  # a second call of the same agent
        ToolFinished(agent="a", tool_use_id="t2", name="b", output=[]),
        Custom(type="custom.progress", data={"agent": "a/b", "call_id": "t1"}),
        replace(WAITS, agent="a/c", wait_s=1),
    ],
    ids=["agent", "call", "tool", "custom", "wait"],
)
async def test_an_agent_beside_one_that_waits_does_not_end_its_wait(
    beside: Any, own_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = Moments(monkeypatch)
    form: Callable[[Any], Any] = encode if own_process else lambda event: event
    await moments.recorder.commit(form(WAITS))
    moments.now += 4
    await moments.recorder.record(form(beside))
    moments.now += 60
    assert moments.recorder.idle_s == 0
    moments.now += 7
    assert moments.recorder.idle_s == 7


@pytest.mark.parametrize("own_process", [False, True])
@pytest.mark.parametrize(
    "end",
    [
        Token(agent="a/b", call_id="t1", text="hi"),
        ToolFailed(agent="a", tool_use_id="t1", name="b", output=[]),
        replace(WAITS, wait_s=0),
    ],
    ids=lambda event: event.type,
)
async def test_a_wait_ends_when_its_agent_speaks_or_its_call_is_over(
    end: Any, own_process: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = Moments(monkeypatch)
    form: Callable[[Any], Any] = encode if own_process else lambda event: event
    await moments.recorder.commit(form(WAITS))
    await moments.recorder.commit(form(end))
    moments.now += 7
    assert moments.recorder.idle_s == 7
