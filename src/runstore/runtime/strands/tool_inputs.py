"""Inputs of tool calls that no event can hold, and the note that replaces such an input. Pure."""

from typing import Any

from runstore.core.codec import encode
from runstore.core.errors import InvalidEvent
from runstore.core.events import ToolStarted
from runstore.runtime.memory.oversized import PART_BYTES

LEFT_OUT = "left_out"  # the only key of an input that stands for one that no event can hold


def left_out(name: str, wrong: str) -> dict[str, str]:
    """The value that replaces a tool's input in an agent's message. `wrong`: the fault of the input.

    A message may be all that a later attempt knows of a call, so the message says it.
    """
    return {LEFT_OUT: f"{_input_of(name)} {wrong}"}


def why_left_out(name: str, input: Any) -> str | None:
    """Why the input of a tool was left out, which is then not called; None for any other input."""
    why = input.get(LEFT_OUT) if isinstance(input, dict) else None
    return why if isinstance(why, str) and why.startswith(_input_of(name)) else None


def _input_of(name: str) -> str:
    return f"the input of tool {name!r}"


def unfit(input: Any) -> str | None:
    """Why no event can hold a tool's input; None if one can."""
    try:
        size = len(encode(ToolStarted(agent="", tool_use_id="", name="", input=input)).data)
    except InvalidEvent as error:
        return f"cannot be recorded: {error}"
    return f"has {size:,} bytes as JSON; the limit is {PART_BYTES:,} bytes" if size > PART_BYTES else None
