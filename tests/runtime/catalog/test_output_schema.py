"""Results checked against schemas: errors are reported, and no schema or result takes too much time."""

from typing import Any

import pytest

from runstore.runtime.catalog.output_schema import MAX_MATCHED, schema_warnings

UNIQUE = {"type": "array", "uniqueItems": True}


def messages(schema: dict[str, Any], result: Any, **options: Any) -> list[str]:
    return [warning.message for warning in schema_warnings(schema, result, **options)]


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2, "1", None, True, False, 0], True),
        ([1, 1.0], False),
        ([1, True], True),
        ([0, False, [0], [False]], True),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ([{"a": 1}, {"a": 1, "b": 1}, [["a", 1]]], True),
        (["a", "b", "a"], False),
        ([[1, 2], [2, 1]], True),
        ([], True),
    ],
)
def test_items_are_unique_as_json_schema_has_it(items: list[Any], unique: bool) -> None:
    assert messages(UNIQUE, items) == ([] if unique else ["the array has non-unique elements"])


def test_unique_items_take_time_by_their_number_alone() -> None:
    items = [{"number": number} for number in range(20_000)]  # in pairs they would be compared for minutes
    assert messages(UNIQUE, items, within_s=60) == []


def test_a_check_that_takes_too_long_is_given_up_with_what_it_has_found() -> None:
    schema: dict[str, Any] = {
        "properties": {"a": {"type": "integer"}},
        "allOf": [{"$ref": "#/$defs/0"}],
        "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 4} for n in range(60)} | {"60": {}},
    }
    first, last = messages(schema, {"a": "x"}, within_s=0.05)
    assert "is not of type 'integer'" in first
    assert "given up" in last
    assert messages({"type": "object"}, {}) == []  # nothing of it is left


def test_a_long_text_is_not_checked_against_a_pattern() -> None:
    schema = {"type": "string", "pattern": r"\s+$"}  # whose time grows by the square of the text's length
    assert messages(schema, "x") == ["'x' does not match '\\\\s+$'"]
    [told] = messages(schema, " " * 1_000_000 + "x")
    assert f"more than {MAX_MATCHED:,} characters" in told


def test_an_object_with_a_very_long_name_is_not_checked_against_patterns() -> None:
    schema = {"patternProperties": {r"\s+$": {}}, "additionalProperties": False}
    [told] = messages(schema, {"a": [{" " * 1_000_000 + "x": 1}]})
    assert "given up" in told


def test_a_schema_that_is_nested_without_an_end_is_reported() -> None:
    [told] = messages({"allOf": [{"$ref": "#"}]}, {})
    assert "nested too deep" in told


@pytest.mark.parametrize(
    ("schema", "result"),
    [
        ({"type": "string", "pattern": r"^([a-z0-9]+)+@x\.org$"}, "a" * 1_000),
        ({"patternProperties": {r"^(a|a)*$": {"type": "integer"}}}, {"a" * 1_000 + "!": 1}),
    ],
)
def test_a_match_that_never_ends_is_given_up(schema: dict[str, Any], result: Any) -> None:
    [told] = messages(schema, result, within_s=0.1)
    assert "it took more than 0.1 s" in told


def test_a_result_is_matched_against_patterns() -> None:
    schema = {"properties": {"size": {"pattern": "^[SML]$"}}, "required": ["n"]}
    assert schema_warnings(schema, {"size": "M", "n": 1}) == []
    assert {warning.path for warning in schema_warnings(schema, {"size": "XL"})} == {"$", "$.size"}
