"""The parameter `types`, which filters events."""

import re
from functools import lru_cache

from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.core.limits import MAX_FILTER_TYPES
from runstore.core.ports import EventFilter
from runstore.http.errors import BadRequest
from runstore.http.query import QueryParameter
from runstore.http.requests import Schema

FILTERS = 256  # recently used filters that are cached
FAMILIES = frozenset(name.partition(".")[0] + "." for name in EVENT_CLASSES) | {"custom."}
ONE_TYPE = "|".join(
    [
        "|".join(re.escape(name) for name in EVENT_CLASSES),
        "|".join(re.escape(f"{family}*") for family in sorted(FAMILIES)),
        CUSTOM_TYPE.pattern,
        rf"{CUSTOM_TYPE.pattern.replace('{1,120}', '{0,119}')}\.\*",
    ]
)
TYPES: Schema = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_FILTER_TYPES,
    "items": {"type": "string", "pattern": f"^(?:{ONE_TYPE})$"},
}


def event_types(description: str) -> QueryParameter[EventFilter | None]:
    """`?types=llm.token,lifecycle.*`"""
    return QueryParameter(TYPES, description, read_filter, default=None)


@lru_cache(FILTERS)
def read_filter(text: str) -> EventFilter:
    """Cached, so that streams with the same text share one filter."""
    names = text.split(",", MAX_FILTER_TYPES)
    if len(names) > MAX_FILTER_TYPES:
        raise BadRequest(f"at most {MAX_FILTER_TYPES} names are allowed in types", code="invalid_parameter")
    for name in names:
        prefix = name.removesuffix("*") if name.endswith(".*") else ""
        known_type = name in EVENT_CLASSES or CUSTOM_TYPE.fullmatch(name)
        if not (known_type or prefix in FAMILIES or CUSTOM_TYPE.fullmatch(prefix)):
            known = ", ".join([*EVENT_CLASSES, *sorted(f"{family}*" for family in FAMILIES)])
            raise BadRequest(
                f"types: unknown event type {name[:50]!r}; known: {known}", code="invalid_parameter"
            )
    return EventFilter.of(names)
