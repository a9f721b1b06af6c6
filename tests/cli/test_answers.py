"""A person's typed text becomes an answer."""

from typing import Any

import pytest

from runstore.cli.answers import answer_of


@pytest.mark.parametrize(
    ("text", "schema", "answer"),
    [
        ("10115", None, 10115),
        ("10115", {"type": "integer"}, 10115),
        ("10115", {"type": "string"}, "10115"),
        ("true", {"type": "string"}, "true"),
        ("yes, please", None, "yes, please"),
        ('{"size": "S"}', {"type": "object"}, {"size": "S"}),
    ],
)
def test_a_question_for_text_takes_a_line_as_it_is(text: str, schema: Any, answer: Any) -> None:
    assert answer_of(text, schema) == answer
