import pytest

from runstore.demo.text import LONG, SHORT, SILENCE, answer


def said(task: str, tokens: int | None = None) -> str:
    return "".join(answer(task, tokens))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("Count from 1 to 10", "1 2 3 4 5 6 7 8 9 10"),
        ("Count from 1 to 10 slowly, saying each number", "1 2 3 4 5 6 7 8 9 10"),
        ("count down from three to -1", "3 2 1 0 -1"),
        ("List the first 5 planets in the solar system", "Mercury Venus Earth Mars Jupiter"),
        ("the first eight planets?", "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune"),
        ("the first 12 planets", "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune"),
        ("Say 'ALPHA' five times", "ALPHA ALPHA ALPHA ALPHA ALPHA"),
        ('repeat "BETA" 3 times', "BETA BETA BETA"),
        ("say GAMMA two times", "GAMMA GAMMA"),
        ("What is 2+2?", "4"),
        ("what is -3 * (2 - 5)", "9"),
        ("Calculate 12 - 20.", "-8"),
    ],
)
def test_a_known_task_gets_its_obvious_answer(task: str, expected: str) -> None:
    assert said(task) == expected


@pytest.mark.parametrize(
    "task",
    [
        "Write a very long essay about space exploration",
        "Write a very long poem",
        "a long, sad story",
        "Write a 10 paragraph essay",
        "two paragraphs",
        "1 paragraph",
        "500 paragraphs about cats",
    ],
)
def test_long_writing_has_at_least_600_tokens(task: str) -> None:
    assert LONG <= len(answer(task)) < 3_000


def test_an_essay_has_the_paragraphs_that_were_asked_for_and_its_topic() -> None:
    paragraphs = said("Write 3 paragraphs about space exploration.").split("\n\n")
    assert len(paragraphs) == 3
    assert all("space exploration" in paragraph for paragraph in paragraphs)


@pytest.mark.parametrize("task", ["Write a short poem", "Write an essay", "What is love?", "What is 2**99?"])
def test_anything_else_gets_its_own_words_back(task: str) -> None:
    assert said(task) == task


def test_a_long_input_is_cut_to_under_40_words() -> None:
    assert len(answer("word " * 10_000)) == SHORT == 39


def test_each_piece_is_a_word_and_its_space_except_the_last() -> None:
    assert answer(" one\ttwo \n three ") == ["one ", "two ", "three"]


@pytest.mark.parametrize("task", ["", " \n "])
def test_an_empty_input_gets_a_fixed_sentence(task: str) -> None:
    assert said(task) == SILENCE


@pytest.mark.parametrize("task", ["ALPHA", "a b c", "", "What is 2+2?", "Write a very long poem", "w " * 500])
@pytest.mark.parametrize("tokens", [1, 7, 400])
def test_tokens_cycles_the_words_to_exactly_this_number(task: str, tokens: int) -> None:
    assert len(answer(task, tokens)) == tokens


def test_cycled_words_come_in_order() -> None:
    assert answer("a b c", 7) == ["a ", "b ", "c ", "a ", "b ", "c ", "a"]


@pytest.mark.parametrize("task", ["Count from 1 to 999999999", "say 'x' 999999999 times", "first 0 planets"])
def test_an_absurd_task_gets_a_bounded_answer(task: str) -> None:
    assert 0 < len(answer(task)) <= 1_000


@pytest.mark.parametrize(
    "task", ["what is " + "1 " * 500_000 + "x", "count " * 100_000, "what is " + "(" * 1_000 + "1"]
)
def test_no_input_makes_it_slow_or_fail(task: str) -> None:
    assert answer(task)
