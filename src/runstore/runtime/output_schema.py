"""Results held against a JSON Schema (draft 2020-12, https://json-schema.org/specification)."""

from typing import Any

from msgspec import Struct

MAX_SCHEMA_WARNINGS = 100  # of one result
MAX_WARNING = 500  # characters of one


class SchemaWarning(Struct, frozen=True):
    """Where a result is not as its schema says. `path`: a JSON path, `$` the result itself."""

    path: str
    message: str


def check_schema(schema: dict[str, Any]) -> None:
    """Raise ValueError for what is no JSON Schema."""
    from jsonschema import Draft202012Validator, SchemaError  # 0.1 s that most starts need not spend

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"`output_schema` is no JSON Schema: {error.json_path}: {error.message}") from error


def schema_warnings(schema: dict[str, Any], result: Any) -> list[SchemaWarning]:
    """What is wrong with a result; nothing is fetched for it, whatever the schema refers to."""
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    found: list[SchemaWarning] = []
    registry: Registry[Any] = Registry()
    try:
        for error in Draft202012Validator(schema, registry=registry).iter_errors(result):
            found.append(SchemaWarning(error.json_path, error.message[:MAX_WARNING]))
            if len(found) == MAX_SCHEMA_WARNINGS:
                break
    except Unresolvable as error:
        found.append(SchemaWarning("$", f"the schema refers to what it does not have: {error}"[:MAX_WARNING]))
    return found
