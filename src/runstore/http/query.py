"""The query of a request. A parameter is declared once: its schema, and how its text is read."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any, ClassVar, Generic, TypeVar, overload
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct
from starlette.requests import Request

from runstore.core.ids import parse_uuid
from runstore.http.errors import BadRequest
from runstore.http.requests import MAX_CURSOR, Parameter, Schema, is_number, read_seq, whole

LAST_EVENT_ID = "lastEventId"  # the query parameter of EventSource polyfills, which spell it differently
# A polyfill's parameter: bytes to send before the first event, which old browsers need. Ignored.
PADDING = "evs_preamble"
SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # a number as in JSON

C = TypeVar("C", bound=str)
S = TypeVar("S", bound=Struct)
T = TypeVar("T")


class QueryParameter(Generic[T]):
    """A parameter of a query, as an attribute of its class. In an object the attribute is the value.

    Args:
        read: the value of a text, or of a list of texts if it is `repeated`. ValueError: it is not valid.
        must_be: the texts that are valid, as the end of a sentence.
        default: the value if the parameter is not given.
        name: of the parameter, if it is not that of the attribute.
    """

    def __init__(
        self,
        schema: Schema,
        description: str,
        read: Callable[[Any], T],
        must_be: str = "",
        *,
        default: T,
        repeated: bool = False,
        name: str = "",
    ) -> None:
        self.schema = schema
        self.description = description
        self.name = name
        self.repeated = repeated
        self._read = read
        self._must_be = must_be
        self._default = default

    def __set_name__(self, query: "type[Query]", attribute: str) -> None:
        self.attribute = attribute
        self.name = self.name or attribute

    @overload
    def __get__(self, query: None, cls: "type[Query]") -> "QueryParameter[T]": ...

    @overload
    def __get__(self, query: "Query", cls: "type[Query]") -> T: ...

    def __get__(self, query: "Query | None", cls: "type[Query]") -> "QueryParameter[T] | T":
        return self if query is None else self._default  # a given value is in the object itself

    def value(self, given: Any) -> T:
        """The value of a text, or of a list of texts; of None the default."""
        if given is None:
            return self._default
        try:
            return self._read(given)
        except ValueError as error:
            message = f"{self.name}={given[:50]!r} must be {self._must_be}"
            raise BadRequest(message, code="invalid_parameter") from error


class Query:
    """The values of a request's parameters. An operation declares its own in a subclass.

    Args:
        others: names that are known besides, and that are read elsewhere.

    Raises:
        BadRequest: a parameter is unknown, invalid, or given twice; or `since` is later than `until`.
    """

    _declared: ClassVar[dict[str, QueryParameter[Any]]] = {}  # name → parameter

    def __init_subclass__(cls) -> None:
        own = [each for each in vars(cls).values() if isinstance(each, QueryParameter)]
        cls._declared = {**cls._declared, **{each.name: each for each in own}}

    @classmethod
    def parameters(cls) -> list[Parameter]:
        """The parameters, as the OpenAPI document describes them."""
        declared = cls._declared.values()
        return [Parameter(p.name, p.schema, p.description, repeated=p.repeated) for p in declared]

    def __init__(self, request: Request, others: Collection[str] = ()) -> None:
        _check_characters(request.scope["query_string"])
        given, values = request.query_params, vars(self)
        for name in given:
            parameter = self._declared.get(LAST_EVENT_ID if _is_last_event_id(name) else name)
            if parameter is None and name not in others and not self._is_padding(name):
                known = ", ".join([*self._declared, *others]) or "none"
                message = f"unknown query parameter {name[:50]!r}; known: {known}"
                raise BadRequest(message, code="unknown_parameter")
            texts = given.getlist(name)
            if len(texts) > 1 and not (parameter and parameter.repeated):
                message = f"query parameter {name!r} is given more than once"
                raise BadRequest(message, code="invalid_parameter")
            if parameter is not None:
                if parameter.attribute in values:  # in two spellings
                    raise BadRequest(f"{parameter.name} is given more than once", code="invalid_parameter")
                values[parameter.attribute] = parameter.value(texts if parameter.repeated else texts[0])
        self._check_period(given)

    def into(self, cls: type[S], **others: Any) -> S:
        """A struct with the values of the parameters of the same names, and with `others`."""
        same = [name for name in cls.__struct_fields__ if hasattr(self, name)]
        return cls(**{**{name: getattr(self, name) for name in same}, **others})

    def _is_padding(self, name: str) -> bool:
        return name == PADDING and LAST_EVENT_ID in self._declared

    def _check_period(self, given: Mapping[str, str]) -> None:
        since, until = vars(self).get("since"), vars(self).get("until")
        if since is not None and until is not None and since > until:
            texts = [given[name][:50] for name in ("since", "until")]
            message = "since={!r} must not be later than until={!r}".format(*texts)
            raise BadRequest(message, code="invalid_parameter")


def _check_characters(query: bytes) -> None:
    if b"%" not in query:
        return
    try:
        text = unquote_to_bytes(query).decode()
    except UnicodeDecodeError as error:
        raise BadRequest("the query is not UTF-8", code="invalid_parameter") from error
    if "\0" in text:
        raise BadRequest("the query must not hold the character NUL", code="invalid_parameter")


def _is_last_event_id(name: str) -> bool:
    bare = name.lower().replace("-", "").replace("_", "")
    return bare.removeprefix("evs") == LAST_EVENT_ID.lower()


# ---- kinds of parameters ----


class Text(QueryParameter[str | None]):
    """A text within the length that its schema states."""

    def __init__(self, schema: Schema, description: str = "") -> None:
        super().__init__(schema, description, str, default=None)

    def value(self, given: Any) -> str | None:
        least, most = self.schema.get("minLength", 0), self.schema.get("maxLength")
        if given is not None and most is not None and not least <= len(given) <= most:
            message = f"{self.name} must have {least} to {most} characters"
            raise BadRequest(message, code="invalid_parameter")
        return super().value(given)


def uuid(description: str) -> QueryParameter[str | None]:
    """A UUID, in its canonical form."""

    def read(text: str) -> str:
        if (found := parse_uuid(text)) is None:
            raise ValueError
        return found

    schema = {"type": "string", "format": "uuid"}
    return QueryParameter(schema, description, read, "a UUID", default=None)


def number(schema: Schema, description: str) -> QueryParameter[int | None]:
    """A whole number within the bounds of its schema, which `whole` makes."""
    return QueryParameter(schema, description, *_number(schema), default=None)


def limit(most: int, default: int, description: str = "") -> QueryParameter[int]:
    """The size of a page."""
    schema = whole(1, most, default)
    return QueryParameter(schema, description, *_number(schema), default=default, name="limit")


def _number(schema: Schema) -> tuple[Callable[[str], int], str]:
    low, high = schema["minimum"], schema["maximum"]

    def read(text: str) -> int:
        if not is_number(text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return read, f"a whole number from {low} to {high}"


def seconds(most: float, description: str) -> QueryParameter[float]:
    """Seconds; 0 if not given."""

    def read(text: str) -> float:
        if not SECONDS.fullmatch(text) or float(text) > most:
            raise ValueError
        return float(text)

    schema = {"type": "number", "minimum": 0, "maximum": most, "default": 0}
    return QueryParameter(schema, description, read, f"seconds from 0 to {most:g}", default=0.0)


def moment(description: str) -> QueryParameter[int | None]:
    """A time, as milliseconds since 1970."""

    def read(text: str) -> int:
        try:
            at = msgspec.convert(text.replace(" ", "+"), datetime)  # a '+' that the URL did not escape
        except msgspec.ValidationError as error:
            raise ValueError from error
        if at.tzinfo is None:
            raise ValueError
        return int(at.timestamp() * 1000)

    schema = {"type": "string", "format": "date-time"}
    must_be = "a time with its zone, as 2026-11-20T10:00:00Z"
    return QueryParameter(schema, description, read, must_be, default=None)


def day(description: str) -> QueryParameter[str | None]:
    """A day such as 2026-11-29."""

    def read(text: str) -> str:
        return date.fromisoformat(text if len(text) == 10 else "").isoformat()

    schema = {"type": "string", "format": "date"}
    return QueryParameter(schema, description, read, "a day such as 2026-11-29", default=None)


@overload
def choice(choices: Sequence[C], description: str = "") -> QueryParameter[C | None]: ...


@overload
def choice(choices: Sequence[C], description: str = "", *, default: C) -> QueryParameter[C]: ...


def choice(choices: Sequence[C], description: str = "", *, default: C | None = None) -> Any:
    """One of these texts."""
    schema: Schema = {"enum": list(choices), **({} if default is None else {"default": default})}

    def read(text: str) -> C:
        return choices[choices.index(text)]

    return QueryParameter(schema, description, read, f"one of {', '.join(choices)}", default=default)


def flag(description: str) -> QueryParameter[bool]:
    """`true` or `false`, the default."""

    def read(text: str) -> bool:
        return ("false", "true").index(text) == 1

    schema = {"type": "boolean", "default": False}
    return QueryParameter(schema, description, read, "one of true, false", default=False)


def cursor(description: str) -> QueryParameter[int | None]:
    """A seq or a position."""
    return QueryParameter(whole(0, MAX_CURSOR, 0), description, read_seq, default=None)


def last_event_id(schema: Schema, description: str, read: Callable[[str], T]) -> QueryParameter[T | None]:
    """The id of the last event, from a polyfill. An empty one counts as not given."""

    def read_stripped(text: str) -> T | None:
        return read(text.strip()) if text.strip() else None

    return QueryParameter(schema, description, read_stripped, default=None, name=LAST_EVENT_ID)
