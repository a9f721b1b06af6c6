"""The requests of a run for a person's input, and their answers: folds over its events. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from runstore.core.codec import RecordedEvent, decode
from runstore.core.events import InputGiven, InputRequested
from runstore.core.ports import EventFilter

INPUTS = EventFilter(types=frozenset({InputRequested.type, InputGiven.type}))
MAX_REQUESTS = 100  # open requests of one run: a person has to read them all
NULL = "the answer must not be null: an agent could not distinguish it from a missing answer"


class Input(Struct, frozen=True):
    """A request, and its answer if there is one. `at`, `given_at`: UTC, milliseconds since 1970."""

    seq: int
    at: int
    request: InputRequested
    given: InputGiven | None = None
    given_at: int | None = None


def fold_inputs(
    events: Iterable[RecordedEvent], earlier: Mapping[str, Input] | None = None
) -> dict[str, Input]:
    """A run's requests by their id, in the order in which they were asked.

    Args:
        earlier: those of the events before.
    """
    inputs = dict(earlier or {})
    for recorded in events:
        if recorded.type in INPUTS.types:
            event = decode(recorded.type, recorded.version, recorded.data)
            if isinstance(event, InputRequested):
                inputs[event.request_id] = Input(recorded.seq, recorded.at, event)
            elif isinstance(event, InputGiven) and (asked := inputs.get(event.request_id)) is not None:
                inputs[event.request_id] = Input(asked.seq, asked.at, asked.request, event, recorded.at)
    return inputs


def answered(
    inputs: Mapping[str, Input], request_id: str, answer: Any, *, by: str | None, key_id: str | None = None
) -> InputGiven:
    """The event that answers an open request. `by`: None if its default is the answer."""
    request = inputs[request_id].request
    others = [each.request for each in inputs.values() if each.given is None]
    left = [each for each in others if each.request_id != request_id]
    edited = request.kind == "approval" and isinstance(answer, dict) and "input" in answer
    return InputGiven(
        request_id=request_id,
        answer=answer,
        by=by,
        key_id=key_id,
        shown=request.input if edited else None,
        open=len(left),
        expires_at=min((each.expires_at for each in left if each.expires_at is not None), default=None),
    )


class Approval(Struct, frozen=True):
    """The answer to an approval. `input`: other arguments for the tool; `reason`: for the agent's model."""

    approve: bool
    input: Any | UnsetType = UNSET
    reason: str = ""


def approval_schema(tool_schema: dict[str, Any] | None) -> dict[str, Any]:
    """The JSON Schema of an approval's answer.

    Args:
        tool_schema: of the tool's arguments.
    """
    return {
        "type": "object",
        "properties": {
            "approve": {"type": "boolean"},
            "input": _moved(tool_schema or {"type": "object"}),
            "reason": {"type": "string", "maxLength": 4_000},
        },
        "required": ["approve"],
        "additionalProperties": False,
    }


def _moved(schema: Any) -> Any:
    """A schema whose references still lead to its own parts as the schema of the property `input`.

    References below an `$id` are relative to that.
    """
    if isinstance(schema, list):
        return [_moved(item) for item in schema]
    if not isinstance(schema, dict) or isinstance(schema.get("$id"), str):
        return schema
    moved = {name: _moved(value) for name, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = f"#/properties/input{reference[1:]}"
    return moved


def numbered(requests: Iterable[InputRequested], attempt: int) -> list[InputRequested]:
    """The requests of an attempt, each with an id that is unique in its run."""
    return [replace(each, request_id=f"{attempt}.{number}") for number, each in enumerate(requests, 1)]
