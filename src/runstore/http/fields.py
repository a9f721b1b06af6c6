"""Values of JSON bodies: what decoding checks about them, and what the OpenAPI document says."""

from typing import Annotated

from msgspec import Meta

from runstore.core.names import MAX_NAME

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
RunId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
HierarchyId = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339, UTC
Seq = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
