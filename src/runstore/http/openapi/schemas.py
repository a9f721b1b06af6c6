"""JSON Schemas of structs, as components of the OpenAPI document."""

from collections.abc import Sequence
from typing import Any

import msgspec

from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.http.openai.objects import UNTYPED_PART
from runstore.http.operations import Schema


class Schemas:
    """The schemas of `types`; EventRecord and the events must be among them."""

    def __init__(self, types: Sequence[Any]) -> None:
        schemas, self.components = msgspec.json.schema_components(
            types, ref_template="#/components/schemas/{name}"
        )
        self._of = list(zip(types, schemas, strict=True))
        self.components["EventRecord"]["oneOf"] = [
            *(
                {"properties": {"type": {"const": cls.type}, "data": self.of(cls)}}
                for cls in EVENT_CLASSES.values()
            ),
            {"properties": {"type": {"pattern": f"^{CUSTOM_TYPE.pattern}$"}}},
        ]

        for content in self.components["ChatMessage"]["properties"]["content"]["anyOf"]:
            if content.get("type") == "array":
                content["items"]["anyOf"].append(UNTYPED_PART)
        self.components["ChatMessage"]["properties"]["content"]["anyOf"].append(UNTYPED_PART)

    def of(self, content: Any) -> Schema:
        """The schema of a type, or the schema that it is already."""
        if isinstance(content, dict):
            return content
        return next(schema for known, schema in self._of if known == content)
