"""Tools that strands runs in the background: its tasks are only in memory, so they cannot ask a person."""

from typing import Any

import pytest
from strands import Agent, ToolContext, tool
from strands.hooks import BeforeToolCallEvent
from strands.middleware import ExecuteToolStage

from runstore import AgentError
from runstore.core.events import Message, ToolFailed, ToolFinished
from runstore.runtime.strands.recorders.background import LOST
from tests.runtime.recording import ListRecorder
from tests.runtime.story import Story, model
from tests.runtime.strands_kit import agent, say, use

APPROVED = {"approve": True}
SAYS = [say("Soon."), say("So."), say("Done.")]  # the result comes before the first of them, or after it
ASKS = [{"text": "Error: a tool that runs in the background cannot ask a person."}]


@tool(context=True)
def mail(to: str, tool_context: ToolContext) -> str:
    """Send a mail, after a question.

    Args:
        to: The address.
    """
    return f"{tool_context.interrupt('sure')} to {to}"


@tool
def look(word: str) -> str:
    """Look a word up.

    Args:
        word: The word.
    """
    return f"seen {word}"


def behind(playing: Any, *tools: Any) -> Agent:
    return agent(playing(), *tools, background_tasks={"always": ["*"]})


async def ask_inside(context: Any, run: Any) -> Any:
    context.interrupt("gate")
    async for event in run(context):
        yield event


async def test_a_tool_that_asks_fails_and_its_model_gets_the_error() -> None:
    playing = model(use(("t1", "mail", {"to": "bob"})), *SAYS)
    story = Story(lambda: behind(playing, mail))
    await story.ends()
    [failed] = story.of(ToolFailed)
    assert (failed.name, failed.output) == ("mail", ASKS)
    assert ASKS[0]["text"].removeprefix("Error: ") in str(playing().heard[-1])


async def test_middleware_that_asks_around_it_ends_the_run() -> None:
    def build() -> Agent:
        made = behind(playing, look)
        made.add_middleware(ExecuteToolStage, ask_inside)
        return made

    playing = model(use(("t1", "look", {"word": "a"})), *SAYS)
    with pytest.raises(AgentError, match=r"interrupt gate\) while a tool runs in the background") as caught:
        await Story(build).asks()
    assert caught.value.code == "interrupted"


async def test_it_may_need_an_approval_which_is_asked_before_it_is_sent_off() -> None:
    playing = model(use(("t1", "look", {"word": "a"})), *SAYS)
    story = Story(lambda: behind(playing, look), approve={"look"})
    [request] = await story.asks()
    assert (request.kind, request.input) == ("approval", {"word": "a"})
    story.answer(APPROVED)
    await story.ends()
    assert [event.output for event in story.of(ToolFinished)] == [[{"text": "seen a"}]]
    assert "seen a" in str(playing().heard[-1])


async def test_a_hook_may_ask_before_it_is_sent_off() -> None:
    def build() -> Agent:
        made = behind(playing, look)
        made.add_hook(lambda event: event.interrupt("sure"), BeforeToolCallEvent)
        return made

    playing = model(use(("t1", "look", {"word": "a"})), *SAYS)
    story = Story(build)
    await story.asks()
    story.answer("yes")
    await story.ends()
    assert len(story.of(ToolFinished)) == 1
    assert "seen a" in str(playing().heard[-1])


@pytest.mark.parametrize("finished", [True, False], ids=["with its result", "without it"])
@pytest.mark.parametrize("answered", [False, True], ids=["after it was sent off", "after an answer"])
async def test_a_new_attempt_delivers_the_result_or_says_that_it_is_lost(
    answered: bool, finished: bool
) -> None:
    first = Story(lambda: behind(model(use(("t1", "look", {"word": "a"})), *SAYS), look))
    await first.ends()
    acknowledged = [event.seq for event in first.history if event.type == Message.type][1]
    died = ListRecorder(
        [each for each in first.history if each.seq <= acknowledged and each.type != ToolFinished.type]
    )
    if finished:
        died.keep(first.of(ToolFinished)[0])
    if answered:
        died.keep(Message(agent="demo", message={"role": "assistant", "content": [{"text": "Soon."}]}))
    playing = model(*SAYS)
    second = Story(lambda: behind(playing, look))
    second.history = died.recorded
    await second.ends()
    heard = str(playing().heard[0])
    assert ("seen a" in heard, LOST in heard) == (finished, not finished)
    assert len(second.of(ToolFinished)) == finished, "the tool is not called again"
