"""When an agent is idle: not while the log makes it wait."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from runstore.core.codec import encode
from runstore.core.events import Retrying, Token
from runstore.runtime import recorder as recorder_module
from runstore.runtime.recorder import Recorder

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


async def test_the_wait_before_a_model_is_called_again_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
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
    now += recorder_module.MAX_WAIT_S + 7
    assert recorder.idle_s == 7
    await recorder.commit(retrying)
    await recorder.record(WORD)  # it did not wait so long
    now += 3
    assert recorder.idle_s == 3
