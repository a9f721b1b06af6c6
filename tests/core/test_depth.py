"""One limit of depth, checked on the bytes."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runstore.core.codec import encode
from runstore.core.depth import MAX_DEPTH, check_decodable, cut, folded, is_deeper
from runstore.core.errors import EventTooDeep, InvalidEvent
from runstore.core.events import (
    Completed,
    Custom,
    Event,
    Message,
    Queued,
    ToolFinished,
    ToolProgress,
    ToolStarted,
)

TRICKY = 'a "[{\\ ]}" \\\\'  # text that looks like brackets and the ends of strings

texts = st.text('ab[]{}\\"\n', max_size=6)
nested = st.recursive(
    st.none() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=30,
)


def deep(levels: int, leaf: Any = TRICKY) -> Any:
    """A value with so many nested lists and objects."""
    for level in range(levels):
        leaf = [leaf, "]"] if level % 2 else {TRICKY: leaf, "b": 1}
    return leaf


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(nested, st.integers(0, 6))
def test_the_depth_is_that_of_the_value(value: Any, most: int) -> None:
    assert is_deeper(json.dumps(value).encode(), most) is (depth_of(value) > most)


@given(nested, st.integers(1, 6))
def test_a_value_is_decodable_up_to_its_depth(value: Any, most: int) -> None:
    data = json.dumps(value).encode()
    if depth_of(value) <= most:
        check_decodable(data, most)
    else:
        with pytest.raises(RecursionError):
            check_decodable(data, most)


@given(nested, st.text('ab[]{}\\"\n', max_size=20))
def test_bytes_after_a_deep_beginning_do_not_hide_it(value: Any, rest: str) -> None:
    data = json.dumps([value]).encode()
    beginning = b"[" * 3 + data[:-1]
    with pytest.raises(RecursionError):
        check_decodable(beginning + rest.encode(), 3)


def test_brackets_after_a_shallow_value_do_not_count() -> None:
    check_decodable(b'{"a": 1}' + b"[" * 100, 2)


@given(nested, st.integers(0, 6))
def test_cut_values_are_json_of_the_remaining_depth(value: Any, most: int) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    left = json.loads(cut(data, most))
    assert depth_of(left) == min(depth_of(value), most)
    if depth_of(value) <= most:
        assert left == value


def unfolded(value: Any, most: int) -> Any:
    """The value that was folded: the texts `most` levels below it are JSON, if they begin like it."""
    if most == 0 and isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    if isinstance(value, dict):
        return {name: unfolded(each, most - 1) for name, each in value.items()}
    return [unfolded(each, most - 1) for each in value] if isinstance(value, list) else value


numbers = st.recursive(
    st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=30,
)


@given(numbers, st.integers(0, 6))
def test_folded_values_lose_nothing(value: Any, most: int) -> None:
    left = json.loads(folded(json.dumps(value, ensure_ascii=False).encode(), most))
    assert depth_of(left) == min(depth_of(value), most)
    assert unfolded(left, most) == value


@given(st.text('ab[]{}\\"\n,', max_size=30), st.integers(0, 3))
@example("[[,]]", 1)
def test_a_mistake_in_json_stays_or_is_in_a_folded_text(text: str, most: int) -> None:
    try:
        json.loads(text)
    except ValueError:
        left = folded(text.encode(), most)
        with suppress(ValueError):
            assert any(not is_json(each) for each in texts_in(json.loads(left)))


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in texts_in(part)]


def test_a_value_of_any_depth_is_cut() -> None:
    data = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    assert depth_of(json.loads(cut(data))) == MAX_DEPTH


def block(value: Any) -> dict[str, Any]:
    return {"json": value}


CALL = {"agent": "demo", "tool_use_id": "t", "name": "find"}
CARRIERS: dict[str, Any] = {
    "custom data": lambda value: Custom("custom.x", value),
    "an input": lambda value: Queued(agent="demo", user_id="local", input=value),
    "metadata": lambda value: Queued(agent="demo", user_id="local", input="hi", metadata=value),
    "code's input": lambda value: Queued(
        agent="demo", user_id="local", input={"code": "", "input": value}, definition={"code": True}
    ),
    "a hierarchy's model": lambda value: Queued(
        agent="demo", user_id="local", input="hi", definition={"models": {"big": {"model_args": value}}}
    ),
    "a result": lambda value: Completed(result=value),
    "an agent's object": lambda value: Completed(result={"text": "", "structured_output": value}),
    "a tool's input": lambda value: ToolStarted(**CALL, input=value),
    "a tool's progress": lambda value: ToolProgress(**CALL, output=[block(value)]),
    "a tool's result": lambda value: ToolFinished(**CALL, output=[block(value)]),
    "a message": lambda value: Message(
        agent="demo",
        message={"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [block(value)]}}]},
    ),
}


@pytest.mark.parametrize("carry", CARRIERS.values(), ids=CARRIERS)
def test_a_value_may_be_nested_so_deep_and_no_deeper(carry: Any) -> None:
    encode(carry(deep(MAX_DEPTH)))
    for levels in (MAX_DEPTH + 1, 300, 900, 100_000):
        with pytest.raises(EventTooDeep, match="64"):
            encode(carry(deep(levels)))


def test_a_value_within_itself_is_nested_too_deep() -> None:
    itself: list[Any] = []
    itself.append(itself)
    event: Event = ToolStarted(**CALL, input={"itself": itself})
    with pytest.raises(InvalidEvent):
        encode(event)
