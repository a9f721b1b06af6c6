"""A question of an agent to a person, in the words of its code."""

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from runstore.core.events import InputRequested
from runstore.core.limits import MAX_INPUT_TIMEOUT_S


class Question(Struct, frozen=True):
    """The reason of a strands interrupt, with all that a request for input may say.

    Args:
        prompt: the question.
        schema: the JSON Schema of the answer; None: any JSON but null.
        data: any JSON that helps the person to answer.
        expires_s: seconds until the question expires, above 0 and at most MAX_INPUT_TIMEOUT_S; None: the
            agent's `input_timeout_s`, if it has one.
        default: the answer when the question expires; None: the run fails then.

    Raises:
        ValueError: for another `expires_s`.
    """

    prompt: str
    schema: dict[str, Any] | None = None
    data: Any = None
    expires_s: float | None = None
    default: Any = None

    def __post_init__(self) -> None:
        if self.expires_s is not None and not 0 < self.expires_s <= MAX_INPUT_TIMEOUT_S:
            raise ValueError(
                f"`expires_s` must be above 0, and at most {MAX_INPUT_TIMEOUT_S:,}, not {self.expires_s!r}"
            )


def put(question: Question, request: InputRequested, now: int) -> InputRequested:
    """A request for input, with the words of a question. `now`: UTC, milliseconds since 1970."""
    expires_at = None if question.expires_s is None else now + int(question.expires_s * 1_000)
    return replace(
        request, prompt=question.prompt, schema=question.schema, data=question.data, expires_at=expires_at,
        default=question.default,
    )  # fmt: skip
