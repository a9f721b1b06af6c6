"""One attempt of one run: what becomes of its ending when the run has moved on."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runstore.core.codec import RecordedEvent, decode
from runstore.core.errors import AgentError
from runstore.core.events import Completed, Failed, InputAdded, Queued
from runstore.core.ports import Agent, AgentResult, EventLog, RunContext, RunRecorder
from runstore.runtime.attempts.runner import AttemptRunner, GoesOn
from tests.kit.events import CANCELLED, QUEUED, read_run, start_run, started
from tests.kit.polling import DEADLINE_S

Ending = AgentResult | BaseException
LATE = (AgentResult({"text": "late"}, {}), AgentError("late"))


class Held:
    """An agent that says nothing until it is let go, and then ends in one way."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def run(self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder) -> AgentResult:
        self.begun.set()
        await self.go_on.wait()
        if isinstance(self._ending, BaseException):
            raise self._ending
        return self._ending

    def cancel(self) -> None:
        """It does not listen."""


class Here:
    """The test's own loop, in place of one of the agents'."""

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)


def runner_of(log: EventLog, run_id: str, agent: Agent) -> AttemptRunner:
    """The first attempt of a run."""

    async def build(context: RunContext, queued: Queued) -> Agent:
        return agent

    here: Any = Here()
    context = RunContext(run_id, "local", "demo", None, {}, 1)
    return AttemptRunner(log, build, here, context, QUEUED, [])


@pytest.mark.parametrize("ending", LATE, ids=["completed", "failed"])
async def test_the_ending_of_an_attempt_that_was_replaced_is_refused(log: EventLog, ending: Ending) -> None:
    """A worker that counted as dead may wake up; its answer does not belong to the run's new attempt."""
    run_id = await start_run(log)
    agent = Held(ending)
    executing = asyncio.create_task(runner_of(log, run_id, agent).run())
    await asyncio.wait_for(agent.begun.wait(), DEADLINE_S)
    await log.append(run_id, [started(2, "worker-2", "adopted")])
    agent.go_on.set()
    await asyncio.wait_for(executing, DEADLINE_S)
    types = [event.type for event in await read_run(log, run_id)]
    assert types == ["lifecycle.queued", "lifecycle.started", "lifecycle.started"]


async def test_the_stop_of_an_attempt_that_was_replaced_is_refused(log: EventLog) -> None:
    run_id = await start_run(log)
    agent = Held(LATE[0])
    runner = runner_of(log, run_id, agent)
    executing = asyncio.create_task(runner.run())
    await asyncio.wait_for(agent.begun.wait(), DEADLINE_S)
    await log.append(run_id, [started(2, "worker-2", "adopted")])
    runner.stop(CANCELLED)
    await asyncio.wait_for(executing, DEADLINE_S)
    assert [event.type for event in await read_run(log, run_id)][2:] == ["lifecycle.started"]


@pytest.mark.parametrize("ending", LATE, ids=["completed", "failed"])
async def test_the_ending_of_the_current_attempt_is_the_run_s(log: EventLog, ending: Ending) -> None:
    run_id = await start_run(log)
    agent = Held(ending)
    agent.go_on.set()
    await runner_of(log, run_id, agent).run()
    expected = "lifecycle.failed" if isinstance(ending, BaseException) else "lifecycle.completed"
    assert [event.type for event in await read_run(log, run_id)][2:] == [expected]


@pytest.mark.parametrize("raised", [GeneratorExit, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_every_exception_of_an_agent_ends_its_run(log: EventLog, raised: type[BaseException]) -> None:
    run_id = await start_run(log)
    agent = Held(raised())
    agent.go_on.set()
    await runner_of(log, run_id, agent).run()
    assert [event.type for event in await read_run(log, run_id)][2:] == ["lifecycle.failed"]


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("I say nothing")


async def test_an_error_with_a_code_that_cannot_be_read_ends_its_run(log: EventLog) -> None:
    run_id = await start_run(log)
    agent = Held(AgentError("out of paper", code=Unprintable()))  # type: ignore[arg-type]
    agent.go_on.set()
    await runner_of(log, run_id, agent).run()
    last = (await read_run(log, run_id))[-1]
    failed = decode(last.type, last.version, last.data)
    assert failed == Failed(code="agent_error", message="out of paper")


async def test_an_agent_that_is_thrown_away_with_its_loop_writes_no_ending(log: EventLog) -> None:
    run_id = await start_run(log)
    agent = Held(LATE[0])
    attempt = runner_of(log, run_id, agent).run()
    executing = asyncio.create_task(attempt)
    await asyncio.wait_for(agent.begun.wait(), DEADLINE_S)
    executing._log_destroy_pending = False  # type: ignore[attr-defined]
    await asyncio.to_thread(attempt.close)
    assert [event.type for event in await read_run(log, run_id)][2:] == []


# ---- a message that a person adds as the agent ends ----


@pytest.mark.parametrize("hears", [True, False])
async def test_an_ending_with_an_unheard_message_is_left_to_another_attempt_or_names_it(
    log: EventLog, hears: bool
) -> None:
    run_id = await start_run(log)
    agent = Held(AgentResult({"text": "done"}, {}, heard=3, unheard=[3], hears=hears))
    agent.go_on.set()
    await log.append(run_id, [InputAdded(content=text, by="ann") for text in ("a", "b", "c")])
    end = await runner_of(log, run_id, agent).run()
    *_, last = await read_run(log, run_id)
    assert (end == GoesOn("added")) is hears
    if hears:
        assert last.type == "input.added"
    else:
        ending = decode(last.type, last.version, last.data)
        assert isinstance(ending, Completed)
        assert ending.unheard == [3, 4, 5]


async def test_unheard_messages_that_fill_more_than_a_page_are_all_named(log: EventLog) -> None:
    run_id = await start_run(log)
    agent = Held(AgentResult({"text": "done"}, {}, heard=2))
    agent.go_on.set()
    await log.append(run_id, [InputAdded(content="x" * 200_000, by="ann") for _ in range(5)])
    await runner_of(log, run_id, agent).run()
    *_, last = await read_run(log, run_id)
    ending = decode(last.type, last.version, last.data)
    assert isinstance(ending, Completed)
    assert ending.unheard == [3, 4, 5, 6, 7]
