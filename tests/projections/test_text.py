"""Search finds the same on every database, treats no text as syntax, and forgets redacted and purged text."""

from typing import Any

import pytest
from sqlalchemy import Connection, select

from runstore.core.errors import InvalidQuery
from runstore.core.events import Completed, Message, Queued, ToolFailed, ToolStarted
from runstore.core.folds.run_text import words_of
from runstore.projections.projection import Projection
from runstore.projections.text import TextProjection
from runstore.projections.text_query import MAX_QUERY, MAX_QUERY_WORDS, TextQuery
from tests.projections.conftest import Tables
from tests.projections.history import History

TEXTS = {
    "weather": "What is the weather in Zürich today?",
    "tool": "call get_weather(city) for me",
    "chinese": "我想去北京旅游",
    "short": "a to be or I",
    "code": "SELECT * FROM users WHERE name = 'O''Neil' -- \"drop\"",
    "common": " ".join(["the cat sat"] + ["the dog"] * 400 + ["the fish"]),
    "long": "x" * 500 + " Straße " + "é" * 300,
}


def found(tables: Tables, bound: Projection, asked: str) -> list[str]:
    (table,) = bound.tables

    def find(connection: Connection) -> list[str]:
        matches = TextQuery.parse(asked).matches(table)
        runs = select(table.c.run_id).where(matches).order_by(table.c.run_id)
        return list(connection.execute(runs).scalars())

    answer: list[str] = tables.ask(find)
    return answer


QUESTIONS: list[tuple[str, list[str]]] = [
    ("weather", ["tool", "weather"]),
    ("WEATHER zurich", ["weather"]),
    ("Zürich!", ["weather"]),
    ('"weather in"', ["weather"]),
    ('"in weather"', []),
    ("get_weather", ["tool"]),
    ("weather_get", []),
    ("北京", ["chinese"]),
    ("京北", []),
    ("to be", ["short"]),
    ("a", ["short"]),
    ('"be or"', ["short"]),
    ("o'neil", ["code"]),
    ("SELECT users", ["code"]),
    ("cat OR weather", []),
    ("NOT weather", []),
    ("weath*", []),
    ("+weather -today", ["weather"]),
    ("name:users", []),
    ("weather'); DROP TABLE text_a; --", []),
    ("&|!():<->@~%_\\ weather", ["tool", "weather"]),
    ('"the fish"', ["common"]),
    ('"dog the fish', ["common"]),
    ("strasse", ["long"]),
    ("x" * 500, ["long"]),
    ("é" * 300, ["long"]),
]


def test_a_search_finds_texts_that_have_all_its_words(tables: Tables) -> None:
    history = History()
    for name, text in TEXTS.items():
        history.append(name, Queued(agent="demo", user_id="ann", input=text))
    searched = tables.fill(TextProjection(), [history.log])
    assert [(asked, found(tables, searched, asked)) for asked, _ in QUESTIONS] == QUESTIONS


@pytest.mark.parametrize("asked", ["", '""', "?!", "_", " "])
def test_a_search_without_a_word_is_refused(asked: str) -> None:
    with pytest.raises(InvalidQuery, match="must have a letter or digit"):
        TextQuery.parse(asked)


def test_a_search_is_bounded() -> None:
    with pytest.raises(InvalidQuery, match="at most 1,000 characters, not 1,001"):
        TextQuery.parse("a" * (MAX_QUERY + 1))
    with pytest.raises(InvalidQuery, match="at most 32 words, not 33"):
        TextQuery.parse(" ".join(f"w{i}" for i in range(MAX_QUERY_WORDS + 1)))


def said(text: str, agent: str = "demo") -> Message:
    return Message(agent=agent, message={"role": "assistant", "content": [{"text": text}]})


def test_inputs_answers_and_tool_calls_are_found_and_nothing_else(tables: Tables) -> None:
    history = History()
    asked = [{"text": "asked"}, {"image": {"bytes": "aaaa"}}]
    history.append("r", Queued(agent="demo", user_id="ann", input=asked))
    history.append("r", said("answered"))
    history.append("r", Message(agent="demo", message={"role": "user", "content": [{"text": "heard"}]}))
    call: dict[str, Any] = {"agent": "demo", "tool_use_id": "useless", "name": "get_time"}
    history.append("r", ToolStarted(**call, input={"zone": "Mars", "depth": 7}))
    history.append("r", ToolFailed(**call, output=[{"text": "no clock"}, {"json": {"why": ["dark"]}}]))
    history.append("r", Completed(result={"text": "answered"}))
    history.append("other", Completed(result={"text": "only the result"}))
    bound = tables.fill(TextProjection(), [history.log])
    for word in ("asked", "answered", "time", "mars", "7", "clock", "dark", "result"):
        assert found(tables, bound, word), word
    assert found(tables, bound, "answered") == ["r"]  # the result is the answer, which is there once
    for word in ("heard", "aaaa", "useless", "zone", "demo"):
        assert not found(tables, bound, word), word


def test_a_redacted_answer_and_a_purged_run_are_not_found(tables: Tables) -> None:
    history = History()
    history.append("r", Queued(agent="demo", user_id="ann", input="question"))
    history.append("r", said("innocent"))
    secret = history.append("r", said("secret"))
    history.append("r", said("secret", agent="another"))
    bound = tables.fill(TextProjection(), [history.appended])
    seen = len(history.appended)
    history.redact("r", "demo", secret.seq)
    history.append("r", Completed(result={"text": "[redacted]"}))
    tables.append(bound, history.appended[seen:])
    assert [row.seq for row in tables.rows(bound, 0)] == [1, 2, 4]
    assert found(tables, bound, "innocent") == ["r"]
    seen = len(history.appended)
    history.purge("r")
    tables.append(bound, history.appended[seen:])
    assert tables.rows(bound, 0) == []
    assert found(tables, bound, "innocent") == []


def test_words_are_without_case_accents_and_punctuation() -> None:
    assert words_of("Zürich, get_wind('São Paulo') №5") == ["zurich", "get", "wind", "sao", "paulo", "no5"]
    assert words_of("ไทย 東京タワー") == [*"ไทย", *"東京タワー"]
