"""Arguments of a tool call, however a model or a client has written them."""

import json
import math

import pytest

from runstore.core.arguments import read_arguments


@pytest.mark.parametrize("text", ["", "  ", "{}", "null", ' {"a": 1} ', '{"a": {"b": [1, null]}, "c": "é"}'])
def test_json_is_read(text: str) -> None:
    assert read_arguments(text) == (json.loads(text or "{}") or {} if text.strip() else {})


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"command": "git commit -m \'a\n\nb\'"}', {"command": "git commit -m 'a\n\nb'"}),
        ('{"old": "\t\tif x"}', {"old": "\t\tif x"}),
        (json.dumps('{"a": 1}'), {"a": 1}),
        (json.dumps('{"a": "x\ny"}'), {"a": "x\ny"}),
        ('{}{"a": 1}', {"a": 1}),
        ('{} {"a": 1}', {"a": 1}),
        ('{"a": 1}{"a": 1}', {"a": 1}),
        ('{"a": {"b": "}"}}\n{ "a": {"b": "}"} }', {"a": {"b": "}"}}),
        ('{"a": 1, "b": 2}{"b": 2, "a": 1}', {"a": 1, "b": 2}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```{"a": "```"}```', {"a": "```"}),
        ('{"a": "</tool_call>"}</tool_call>', {"a": "</tool_call>"}),
        ('{"a": 1}<|call|>\n<|im_end|>', {"a": 1}),
    ],
    ids=[
        "line breaks", "tabs", "encoded twice", "encoded twice, with a break", "after {}", "after {} apart",
        "twice", "twice, apart", "twice, in another order", "in a code block",
        "in a code block, with one inside", "before a tag", "before marks",
    ],
)  # fmt: skip
def test_variants_of_json_are_read(text: str, arguments: object) -> None:
    assert read_arguments(text) == arguments


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (r'{"a": [1, 2, ], "b": {},}', {"a": [1, 2], "b": {}}),
        (r'{"a": ",}", "b": "[1,]",}', {"a": ",}", "b": "[1,]"}),
        (r'{"re": "\d+\.\w \\ \n \u00e9 \u12"}', {"re": "\\d+\\.\\w \\ \n é \\u12"}),
        (r"""{"a": "it\'s"}""", {"a": "it's"}),
        (r"""{'a': 'say "hi", it\'s \"me\"'}""", {"a": 'say "hi", it\'s "me"'}),
        ("{'a': True, 'b': None, 'c': [False, 1.5e-3]}", {"a": True, "b": None, "c": [False, 0.0015]}),
        ('{path: "True, None: x", n_2 : -2E5}', {"path": "True, None: x", "n_2": -200_000.0}),
        (json.dumps('{"a": 1,}'), {"a": 1}),
    ],
    ids=[
        "commas", "commas in texts", "escapes", "an escaped single quote", "single quotes", "Python's words",
        "names", "encoded twice",
    ],
)  # fmt: skip
def test_objects_in_forms_of_python_and_javascript_are_read(text: str, arguments: object) -> None:
    assert read_arguments(text) == arguments


def test_a_number_that_json_has_not_is_read() -> None:
    assert math.isnan(read_arguments('{"a": NaN}')["a"])


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}{"a": 1', '{"a": 1}<', '```{"a": 1```', '{"a": 1}{"a": true}', '{"a": [0]}{"a": [false]}',
        "```5```", "```null```", "```garbage```", "```json\nnull\n```", "```[1]```", "```json garbage {}```",
        '{"a": 1', '{"a": 1}}', '{"a": 1}{"a": 2}', "[1]", "7", '"x"', "'a'", '{"a": "x', "[" * 99_999,
        '{"a": 1,', '{"a": "x,}', '{"a": rm}', '{"a" "b"}', "{,}{",
        r'{"a": "C:\"}', """{'"': """ + "[" * 9_999 + "}",
    ],
)  # fmt: skip
def test_other_text_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_arguments(text)


@pytest.mark.parametrize(
    "part", ["```", "<a", "{}", r"\d", ", ", " a", " a ", "\\", "'", r"\'", "-", "9", "True "], ids=repr
)
def test_text_that_is_no_object_is_refused_in_linear_time(part: str) -> None:
    for quote in ("", '"', "'"):
        with pytest.raises(ValueError):  # noqa: PT011
            read_arguments("{" + quote + part * 150_000 + " " * 150_000 + ";}")


@pytest.mark.parametrize("levels", [4, 5, 1_000, 100_000])
def test_deep_values_are_kept_as_json(levels: int) -> None:
    read = read_arguments('{"a":' * levels + "1" + "}" * levels, deepest=4)
    inner = read["a"]["a"]["a"]["a"]
    assert inner == ('{"a":' * (levels - 4) + "1" + "}" * (levels - 4) if levels > 4 else 1)
