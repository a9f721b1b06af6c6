"""The worker of an agent dies whose answers may be redacted: unjudged text is withheld."""

from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

import pytest
from strands import Agent
from strands.hooks import AfterModelCallEvent
from strands.middleware import InvokeModelStage

from runstore.core.events import AgentStarted, Queued, Started, Token
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog
from runstore.runtime.attempts.starting import Attempts
from runstore.runtime.strands.agent import StrandsAgent
from tests.kit.events import read_run
from tests.runtime.recording import ListRecorder, context
from tests.runtime.strands_kit import Playbook, agent, say

SECRET = "the key is hunter2"


@pytest.mark.parametrize(("redacts", "policy"), [(True, "resume"), (True, "restart"), (False, "resume")])
async def test_an_unfinished_answer_of_a_dead_attempt_is_withheld_if_it_might_have_been_redacted(
    log: EventLog, redacts: bool, policy: str
) -> None:
    run_id = new_run_id()
    queued = Queued(agent="demo", user_id="u", input="hi", definition={"on_worker_lost": policy})
    started = Started(worker_id="dead", attempt=1, reason="claimed")
    began = AgentStarted(agent="demo", redacts=redacts)
    await log.append(run_id, [queued, started, began, Token(agent="demo", text=SECRET)], expected_seq=0)
    assert await Attempts(log, "living").go_on(run_id, 1, "handed_over")
    events = await read_run(log, run_id)
    assert [event.type for event in events][3:] == [
        "llm.redacted" if redacts else "llm.token", "lifecycle.started",
    ]  # fmt: skip
    assert any(SECRET.encode() in event.data for event in events) is not redacts


def hooked(product: Agent) -> Agent:
    def rewrite(event: AfterModelCallEvent) -> None:
        """Might."""

    product.add_hook(rewrite, AfterModelCallEvent)
    return product


def wrapped(product: Agent) -> Agent:
    async def wrap(context: Any, call: Any) -> AsyncIterator[Any]:
        async for event in call(context):
            yield event

    product.add_middleware(InvokeModelStage, wrap)
    return product


def guarded(product: Agent) -> Agent:
    product.model.update_config(guardrail_redact_output=True)
    return product


@pytest.mark.parametrize(
    ("prepare", "redacts"),
    [(lambda product: product, False), (hooked, True), (wrapped, True), (guarded, True)],
)
async def test_an_agent_says_as_it_begins_whether_its_answers_may_be_redacted(
    prepare: Any, redacts: bool
) -> None:
    recorder = ListRecorder()
    await StrandsAgent(prepare(agent(Playbook(say("hi")))), context(), WeakSet()).run("hi", [], recorder)
    assert [event.redacts for event in recorder.of(AgentStarted)] == [redacts]
