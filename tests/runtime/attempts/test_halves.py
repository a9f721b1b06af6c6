"""An emoji that a model's deltas cut in half is recorded whole."""

from typing import Any

from runstore.core.codec import decode, encode
from runstore.core.events import AgentFinished, Custom, Event, Queued, Reasoning, Started, Token
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog
from runstore.runtime.attempts.halves import SurrogateJoiner
from runstore.runtime.attempts.recorder import Recorder

FIRST, SECOND, WHOLE, LOST = "\ud83d", "\ude42", "\U0001f642", "\ufffd"


def recorded(*said: Any) -> list[tuple[str, str]]:
    """The records of texts of one agent, and of events: the agent and the text, or the type."""
    halves = SurrogateJoiner()
    found = []
    for item in said:
        event: Any = Token(agent="a", text=item) if isinstance(item, str) else item
        for each in halves.whole(event) if halves.concern(event) else [event]:
            stored = encode(each)
            read: Any = decode(stored.type, stored.version, stored.data)
            found.append((getattr(read, "agent", ""), getattr(read, "text", stored.type)))
    return found


def test_two_halves_are_one_character() -> None:
    assert recorded(f"a{FIRST}", f"{SECOND}b") == [("a", "a"), ("a", f"{WHOLE}b")]
    assert recorded(FIRST, SECOND) == [("a", WHOLE)]
    assert recorded(FIRST, f"{SECOND}{FIRST}", SECOND) == [("a", WHOLE), ("a", WHOLE)]


def test_a_half_that_stays_alone_is_a_replacement_character() -> None:
    assert recorded(FIRST, "b") == [("a", f"{LOST}b")]
    assert recorded("a", SECOND) == [("a", "a"), ("a", LOST)]
    assert recorded(FIRST, AgentFinished(agent="a")) == [("a", LOST), ("a", "agent.finished")]


def test_agents_calls_and_reasoning_have_halves_of_their_own() -> None:
    assert recorded(
        FIRST, Token(agent="b", text="x"), Token(agent="a", call_id="1", text=SECOND),
        Reasoning(agent="a", text=SECOND), AgentFinished(agent="b"), Custom("custom.x"), SECOND,
    ) == [
        ("b", "x"), ("a", LOST), ("a", LOST), ("b", "agent.finished"), ("", "custom.x"), ("a", WHOLE),
    ]  # fmt: skip


def test_text_without_halves_is_recorded_as_it_is() -> None:
    halves = SurrogateJoiner()
    events: list[Event] = [Token(agent="a", text=""), Token(agent="a", text=WHOLE), AgentFinished(agent="a")]
    assert not any(map(halves.concern, events))
    assert recorded(FIRST, "", SECOND) == [("a", WHOLE)]


async def test_a_recorder_joins_halves_and_gives_up_the_last_one_on_request(log: EventLog) -> None:
    run_id = new_run_id()
    started = Started(worker_id="w", attempt=1, reason="claimed")
    await log.append(run_id, [Queued(agent="a", user_id="u", input="hi"), started], expected_seq=0)
    recorder = Recorder(log, run_id, attempt=1)
    for text in (f"a{FIRST}", SECOND, FIRST):
        await recorder.record(Token(agent="a", text=text))
    await recorder.flush()
    await recorder.commit(Token(agent="a", text=FIRST))
    found: list[Any] = [decode(e.type, e.version, e.data) for e in await log.read(run_id, after=2)]
    assert [event.text for event in found] == ["a", WHOLE, LOST, LOST]
