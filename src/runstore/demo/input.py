"""Makes the scripted model's tool inputs: every required property, from the task's text. Pure.

Supports the part of JSON Schema (2020-12) that tools' schemas use; an unknown type gets the text.
"""

import re
from typing import Any

Schema = dict[str, Any]
MAX_DEPTH = 8  # levels of nested schemas, so that a recursive one ends


def tool_input(schema: Schema, task: str) -> dict[str, Any]:
    """The smallest input that an object's schema accepts: its required properties."""
    value = _fill(schema, task, schema.get("$defs", {}), 0)
    return value if isinstance(value, dict) else {}


def _fill(schema: Schema, task: str, definitions: dict[str, Schema], depth: int) -> Any:
    if depth > MAX_DEPTH:
        return None
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return schema["enum"][0]
    inner = _inner(schema, definitions)
    if inner is not None:
        return _fill(inner, task, definitions, depth + 1)
    match _kind(schema):
        case "object":
            wanted = schema.get("properties", {})
            required = {name: wanted.get(name, {}) for name in schema.get("required", ())}
            return {name: _fill(each, task, definitions, depth + 1) for name, each in required.items()}
        case "array":
            item = schema.get("items") or {}
            return [_fill(item, task, definitions, depth + 1) for _ in range(schema.get("minItems", 0))]
        case "integer" | "number" as kind:
            return _number(task, kind)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return task


def _inner(schema: Schema, definitions: dict[str, Schema]) -> Schema | None:
    """The schema that a reference or a choice stands for.

    Of a choice it is the first non-null schema, unless that is a reference, which may lead back here.
    """
    if "$ref" in schema:
        return definitions.get(str(schema["$ref"]).rpartition("/")[2], {})
    choices = [each for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key, ())]
    nullable = any(each.get("type") == "null" for each in choices)
    useful = (each for each in choices if each.get("type") != "null" and not (nullable and "$ref" in each))
    return next(useful, choices[-1] if choices else None)


def _kind(schema: Schema) -> str | None:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    return kind or ("object" if "properties" in schema else None)


def _number(task: str, kind: str) -> int | float:
    found = re.search(r"-?\d{1,15}(?:\.\d{1,15})?", task)
    value = float(found[0]) if found else 1
    return int(value) if kind == "integer" or value == int(value) else value
