"""The schema of an approval's answer."""

from typing import Any

import pytest

from runstore.core.inputs import approval_schema
from runstore.runtime.catalog.output_schema import schema_warnings

NODE = {
    "type": "object",
    "properties": {"size": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#"}}},
}
TWINS = {
    "type": "object",
    "properties": {
        "children": {
            "type": "array",
            "items": {"type": "object", "properties": {"size": {"type": "integer"}}},
        },
        "others": {"$ref": "#/properties/children"},
    },
}
SHARED = {
    "type": "object",
    "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
    "$defs": {"Node": NODE | {"properties": {"size": {"type": "integer"}}}},
}
OWN = {"$id": "https://example.com/node", **NODE}


@pytest.mark.parametrize(
    ("schema", "field"), [(NODE, "children"), (TWINS, "others"), (SHARED, "children"), (OWN, "children")]
)
def test_references_of_a_tools_schema_lead_to_its_own_parts(schema: dict[str, Any], field: str) -> None:
    def warnings(size: Any) -> list[str]:
        answer = {"approve": True, "input": {field: [{"size": size}]}}
        return [each.path for each in schema_warnings(approval_schema(schema), answer)]

    assert warnings(5) == []
    assert warnings("five") == [f"$.input.{field}[0].size"]
