"""Messages that people add to a run of a strands agent, a Graph or a Swarm (steering)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from weakref import WeakSet

import pydantic
import pytest
from strands import Agent, tool
from strands.hooks import AfterInvocationEvent
from strands.multiagent import GraphBuilder, Swarm

from runstore.core.codec import EncodedEvent
from runstore.core.errors import InvalidEvent
from runstore.core.events import Custom, Event, InputAdded, InputReplaced, Message
from runstore.core.ports import AgentResult
from runstore.runtime.memory.unheard import UnheardMessages
from runstore.runtime.strands.agent import Product, StrandsAgent
from tests.runtime.recording import ListRecorder, again_after, context
from tests.runtime.strands_kit import Playbook, agent, say, use


class Interrupted(Playbook):
    """A model that something happens to while it speaks: `meanwhile[n]`, in its n-th call."""

    def __init__(self, *turns: Any, meanwhile: dict[int, Callable[[], None]]) -> None:
        super().__init__(*turns)
        self.meanwhile = meanwhile

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        happens = self.meanwhile.pop(self.calls, None)
        async for chunk in super().stream(messages, *args, **kwargs):
            yield chunk
            if "contentBlockStop" in chunk and happens is not None:
                happens()


@pytest.fixture
def recorder() -> ListRecorder:
    return ListRecorder()


@pytest.fixture
def hurry(recorder: ListRecorder) -> Callable[[], None]:
    """A person says "Hurry."."""
    return lambda: recorder.keep(InputAdded(content="Hurry.", by="ann"))


@pytest.fixture
def look() -> Any:
    @tool
    def look(word: str) -> str:
        """Look a word up.

        Args:
            word: The word.
        """
        return f"seen {word}"

    return look


async def run(product: Product, recorder: ListRecorder, attempt: int = 1, **settings: Any) -> AgentResult:
    history = list(recorder.recorded) if attempt > 1 else []
    ended = await StrandsAgent(product, context(attempt), WeakSet(), **settings).run("hi", history, recorder)
    assert isinstance(ended, AgentResult)
    return ended


def heard(model: Playbook) -> list[list[str]]:
    """The texts that people said, in each call of a model."""
    return [
        [block["text"] for message in call for block in message["content"] if "text" in block]
        for call in model.heard
    ]


def model(*turns: Any) -> Callable[[], Playbook]:
    playbook = Playbook(*turns)
    return lambda: playbook


async def test_an_added_message_comes_with_the_next_model_call(look: Any) -> None:
    playing = model(use(("t1", "look", {"word": "a"})), say("Done."))
    recorder = ListRecorder()

    @tool
    def hear() -> str:
        """Hear something, while a person speaks."""
        recorder.keep(InputAdded(content="Hurry.", by="ann"))
        recorder.keep(InputAdded(content=[{"text": "Please."}], by="ann"))
        return "heard"

    playing = model(use(("t1", "hear", {})), say("Done."))
    driven = StrandsAgent(agent(playing(), hear), context(), WeakSet())
    assert isinstance(await driven.run("hi", [], recorder), AgentResult)
    first, second = playing().heard
    assert len(first) == 1
    assert [list(block) for block in second[-1]["content"]] == [["toolResult"], ["text"], ["text"]]
    [replaced] = recorder.of(InputReplaced)
    assert replaced.messages[0]["content"][1:] == [{"text": "Hurry."}, {"text": "Please."}]
    assert replaced.added is not None
    assert recorder.events[replaced.added - 1] == InputAdded(content=[{"text": "Please."}], by="ann")


async def test_a_new_attempt_has_the_added_messages_and_takes_only_new_ones(look: Any) -> None:
    playing = model(use(("t1", "look", {"word": "a"})), say("Done."))
    recorder = ListRecorder()
    recorder.keep(InputAdded(content="At first.", by="ann"))
    await StrandsAgent(agent(playing(), look), context(), WeakSet()).run("hi", [], recorder)
    died = [event for event in recorder.recorded if event.seq <= recorder.types().index("tool.finished") + 1]
    again = ListRecorder(again_after(died, 2))
    again.keep(InputAdded(content="Later.", by="ann"))
    retold = model(say("Done again."))
    await StrandsAgent(agent(retold(), look), context(2), WeakSet()).run("hi", again.recorded[:-1], again)
    [heard] = retold().heard
    assert [block["text"] for block in heard[0]["content"]] == ["hi", "At first."]
    assert heard[-1]["content"][-1] == {"text": "Later."}


async def test_a_message_added_before_the_first_answer_is_in_the_next_attempt() -> None:
    recorder = ListRecorder()
    recorder.keep(InputAdded(content="Hurry.", by="ann"))
    playing = model(say("One."), say("Two."), say("Three."))
    for attempt in (1, 2, 3):
        driven = StrandsAgent(agent(playing()), context(attempt), WeakSet())
        await driven.run("hi", list(recorder.recorded) if attempt > 1 else [], recorder)
        last = max(event.seq for event in recorder.recorded if event.type == InputReplaced.type)
        recorder = ListRecorder(again_after(recorder.recorded[:last], attempt + 1))
    for heard in playing().heard:
        assert [[block["text"] for block in each["content"]] for each in heard[:1]] == [["hi", "Hurry."]]


async def test_added_messages_that_do_not_fit_together_wait_for_the_next_model_call(look: Any) -> None:
    large = 500_000  # characters: two of them do not fit into one event
    recorder = ListRecorder()
    for letter in "xyz":
        recorder.keep(InputAdded(content=letter * large, by="ann"))
    playing = model(use(("t1", "look", {"word": "a"})), use(("t2", "look", {"word": "b"})), say("Done."))
    driven = StrandsAgent(agent(playing(), look), context(), WeakSet())
    assert isinstance(await driven.run("hi", [], recorder), AgentResult)
    added = [
        [block["text"][0] for block in heard[-1]["content"] if "text" in block] for heard in playing().heard
    ]
    assert added == [["h", "x"], ["y"], ["z"]]
    assert [event.added for event in recorder.of(InputReplaced)] == [3, 4, 5]


async def test_an_agent_that_has_answered_takes_another_turn(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    playing = Interrupted(say("At last."), say("At once."), meanwhile={0: hurry})
    ended = await run(agent(playing), recorder)
    assert ended.result["text"] == "At once."
    assert heard(playing) == [["hi"], ["hi", "At last.", "Hurry."]]
    [added] = recorder.of(InputReplaced)
    assert (added.count, added.messages) == (0, [{"role": "user", "content": [{"text": "Hurry."}]}])
    assert (ended.heard, ended.hears) == (added.added, True)
    assert [each.message["role"] for each in recorder.of(Message)] == ["assistant", "assistant"]


async def test_another_turn_waits_for_no_message_that_a_tools_result_can_take(
    recorder: ListRecorder, hurry: Callable[[], None], look: Any
) -> None:
    playing = Interrupted(use(("t1", "look", {"word": "a"})), say("Done."), meanwhile={0: hurry})
    await run(agent(playing, look), recorder)
    assert len(playing.heard) == 2
    assert [event.count for event in recorder.of(InputReplaced)] == [1]


async def test_an_agent_that_makes_an_object_makes_another_one(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    class Answer(pydantic.BaseModel):
        number: int

    turns = [use((f"t{number}", "Answer", {"number": number})) for number in (1, 2)]
    playing = Interrupted(*turns, meanwhile={0: hurry})
    ended = await run(agent(playing, structured_output_model=Answer), recorder)
    assert ended.result["structured_output"] == {"number": 2}
    assert "Hurry." in heard(playing)[1]


async def test_a_worker_that_dies_with_the_answer_leaves_the_message_to_the_next(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    await run(agent(Playbook(say("At last."))), recorder)
    hurry()
    again = ListRecorder(again_after(recorder.recorded, 2))
    playing = Playbook(say("At once."))
    ended = await run(agent(playing), again, 2)
    assert (ended.result["text"], heard(playing)) == ("At once.", [["hi", "At last.", "Hurry."]])
    assert (ended.heard, ended.hears) == (again.recorded.index(recorder.recorded[-1]) + 1, True)
    third = ListRecorder(again_after(again.recorded, 3))
    ended = await run(agent(Playbook()), third, 3)
    assert ended.result["text"] == "At once.", "no model is asked a third time"


async def test_a_worker_that_dies_before_the_second_answer_gives_the_message_again(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    playing = Interrupted(say("At last."), say("At once."), meanwhile={0: hurry})
    await run(agent(playing), recorder)
    seq = next(event.seq for event in recorder.recorded if event.type == InputReplaced.type)
    again = ListRecorder(again_after(recorder.recorded[:seq], 2))
    retold = Playbook(say("Soon."))
    ended = await run(agent(retold), again, 2)
    assert (ended.result["text"], heard(retold)) == ("Soon.", [["hi", "At last.", "Hurry."]])


async def test_a_hook_that_continues_the_agent_gives_it_the_message(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    playing = Interrupted(say("One."), say("Two."), meanwhile={0: hurry})
    built = agent(playing)

    def more(event: AfterInvocationEvent) -> None:
        event.resume = "And then?" if playing.calls == 1 else None

    built.add_hook(more, AfterInvocationEvent)
    await run(built, recorder)
    assert heard(playing)[1:] == [["hi", "One.", "And then?", "Hurry."]]


async def test_an_agent_that_ends_by_its_limit_hears_no_more(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    ended = await run(agent(Interrupted(say("Cut", stop="max_tokens"), meanwhile={0: hurry})), recorder)
    assert (ended.heard, ended.hears) == (0, False)


# ---- Graphs and Swarms ----


def chain(*agents: Agent) -> Any:
    graph = GraphBuilder()
    for each in agents:
        graph.add_node(each, each.name)
    for one, other in pairwise(agents):
        graph.add_edge(one.name, other.name)
    graph.set_entry_point(agents[0].name).set_execution_timeout(60)
    return graph.build()


async def test_the_node_that_calls_its_model_next_gets_the_message(
    recorder: ListRecorder, hurry: Callable[[], None], look: Any
) -> None:
    one = Interrupted(use(("t1", "look", {"word": "a"})), say("One."), meanwhile={0: hurry})
    two = Playbook(say("Two."))
    ended = await run(chain(agent(one, look, name="one"), agent(two, name="two")), recorder)
    assert "Hurry." in heard(one)[1]
    assert "Hurry." not in heard(two)[0]
    [added] = recorder.of(InputReplaced)
    assert (added.agent, ended.heard) == ("demo/one", added.added)


async def test_of_nodes_that_begin_at_once_one_gets_the_message(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    hurry()
    sides = [Playbook(say(f"Side {n}.")) for n in range(3)]
    graph = GraphBuilder()
    for n, playing in enumerate(sides):
        graph.add_node(agent(playing, name=f"side{n}"), f"side{n}")
        graph.set_entry_point(f"side{n}")
    ended = await run(graph.set_execution_timeout(60).build(), recorder)
    assert sum(texts.count("Hurry.") for each in sides for texts in heard(each)) == 1
    assert [event.added for event in recorder.of(InputReplaced)] == [3]
    assert ended.heard == 3


async def test_the_last_node_takes_another_turn(recorder: ListRecorder, hurry: Callable[[], None]) -> None:
    two = Interrupted(say("Two."), say("At once."), meanwhile={0: hurry})
    ended = await run(chain(agent(Playbook(say("One.")), name="one"), agent(two, name="two")), recorder)
    assert (ended.result["text"], len(two.heard)) == ("At once.", 2)
    assert heard(two)[1][-1] == "Hurry."


async def test_a_message_to_a_node_is_in_the_nodes_next_attempt(
    recorder: ListRecorder, hurry: Callable[[], None], look: Any
) -> None:
    def build(one: Playbook, two: Playbook) -> Any:
        return chain(agent(one, look, name="one"), agent(two, look, name="two"))

    one = Interrupted(use(("t1", "look", {"word": "a"})), say("One."), meanwhile={0: hurry})
    two = Playbook(use(("t2", "look", {"word": "b"})), say("Two."))
    await run(build(one, two), recorder)
    died = max(event.seq for event in recorder.recorded if event.type == "tool.finished")
    again = ListRecorder(again_after(recorder.recorded[:died], 2))
    later = Playbook(say("Two again."))
    ended = await run(build(Playbook(), later), again, 2)
    assert (ended.result["text"], len(later.heard)) == ("Two again.", 1)
    assert "Hurry." not in heard(later)[0]
    assert ended.heard == recorder.of(InputReplaced)[0].added


async def test_a_node_that_begins_again_gives_its_message_to_the_next_call(
    recorder: ListRecorder, hurry: Callable[[], None]
) -> None:
    hurry()
    await run(chain(agent(Playbook(say("One.")), name="one")), recorder)
    died = next(event.seq for event in recorder.recorded if event.type == InputReplaced.type)
    again = ListRecorder(again_after(recorder.recorded[:died], 2))
    later = Playbook(say("One again."))
    ended = await run(chain(agent(later, name="one")), again, 2)
    assert [each for each in heard(later)[0] if each == "Hurry."] == ["Hurry."]
    assert ended.heard == 3


async def test_a_swarms_agents_get_messages(recorder: ListRecorder, hurry: Callable[[], None]) -> None:
    handoff = use(("h1", "handoff_to_agent", {"agent_name": "two", "message": "go"}))
    one = Playbook(handoff, say("Over."))
    two = Interrupted(say("Two."), say("At once."), meanwhile={0: hurry})
    members = [agent(one, name="one"), agent(two, name="two")]
    ended = await run(Swarm(members, entry_point=members[0]), recorder)
    assert (ended.result["text"], heard(two)[1][-1]) == ("At once.", "Hurry.")


# ---- messages that cannot be recorded with the model's input ----


class Refusing(ListRecorder):
    """A log that refuses to replace input by one with certain words."""

    words = "Hurry."

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        if isinstance(event, InputReplaced) and self.words in str(event.messages):
            raise InvalidEvent("not these words")
        await super().record(event)


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_refused_message_is_named_and_the_others_are_heard(meanwhile: bool, look: Any) -> None:
    recorder = Refusing()

    def speak() -> None:
        for text in ("Hurry.", "Please."):
            recorder.keep(InputAdded(content=text, by="ann"))

    playing = Interrupted(
        use(("t1", "look", {"word": "a"})), say("Done."), say("Again."),
        meanwhile={1 if meanwhile else 0: speak},
    )  # fmt: skip
    ended = await run(agent(playing, look), recorder)
    [refused, other] = [event.seq for event in recorder.recorded if event.type == InputAdded.type]
    assert (list(ended.unheard), ended.heard) == ([refused], other)
    assert "Please." in heard(playing)[-1]
    assert "Hurry." not in str(playing.heard)


# ---- the account of heard messages ----


def test_a_message_that_is_given_back_is_unheard_again() -> None:
    unheard = UnheardMessages()
    first, second = unheard.take(5), unheard.take(9)
    assert (3 in unheard, 9 in unheard, 10 in unheard, unheard.after) == (False, False, True, 9)
    unheard.give_back(first)
    assert (3 in unheard, 7 in unheard, unheard.after) == (True, False, 0)
    assert unheard.take(3) == [(0, 3)]
    unheard.give_back(second)
    assert [seq in unheard for seq in (3, 4, 5, 6, 9, 10)] == [False, True, True, True, True, True]
    assert unheard.take(20) == [(3, 20)]
