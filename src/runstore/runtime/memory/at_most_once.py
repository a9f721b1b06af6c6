"""Tools that must not be called twice: marks them, and finds the calls in a log that forbid a resume.

Pure.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeVar

from runstore.core.codec import RecordedEvent, decode
from runstore.core.events import (
    AgentStarted,
    Failed,
    InputRequested,
    Place,
    ToolFailed,
    ToolFinished,
    ToolStarted,
)

CODE = "at_most_once"  # error code of a run that cannot resume, as that could call such a tool again
MARK = "runstore_at_most_once"
READ = frozenset(cls.type for cls in (AgentStarted, InputRequested, ToolStarted, ToolFinished, ToolFailed))

Tool = TypeVar("Tool")


def at_most_once(tool: Tool) -> Tool:
    """Mark a tool that must not be called twice for one request of its agent, even if its worker dies.

    A decorator, above or below strands' `@tool`. It also takes any tool object, such as an MCP server's, and
    an agent used as a tool. A run whose worker is lost while such a tool runs fails with the code
    `at_most_once`. The mark does not keep the agent from requesting the tool twice.

    Raises:
        TypeError: the object accepts no attributes, so it cannot be marked.
    """
    for marked in (tool, getattr(tool, "__wrapped__", None)):  # `@tool` on a method binds its function
        if marked is not None:
            try:
                setattr(marked, MARK, True)
            except (AttributeError, TypeError) as error:
                kind = type(tool).__name__
                raise TypeError(f"at_most_once: an object of type {kind} cannot be marked") from error
    return tool


def is_at_most_once(tool: Any) -> bool:
    """Whether a tool, or the agent behind it, is marked."""
    return bool(getattr(tool, MARK, False) or getattr(getattr(tool, "agent", None), MARK, False))


def obstacle(history: Iterable[RecordedEvent], *, repeats: bool) -> Failed | None:
    """The ending of a run that no new attempt may resume; None if one may.

    Args:
        history: events of earlier attempts; may omit streamed text.
        repeats: the new attempt restarts from the input, and repeats finished calls.
    """
    running: dict[tuple[str, str | None, str], ToolStarted] = {}
    finished: list[ToolStarted] = []
    called: set[Place] = set()  # where agents called by a tool's code work
    calls: dict[Place, ToolStarted] = {}  # where the agents of a tool work → its call
    for recorded in history:
        if recorded.type in READ:
            event = decode(recorded.type, recorded.version, recorded.data)
            if isinstance(event, AgentStarted) and not event.resumable:
                called.add(event.place)
            elif isinstance(event, InputRequested):
                running.clear()  # the attempt has ended by itself: these tools have asked
            elif isinstance(event, ToolStarted | ToolFinished | ToolFailed):
                call = (event.agent, event.call_id, event.tool_use_id)
                if isinstance(event, ToolStarted):
                    running[call] = calls[_inside(event)] = event
                elif (started := running.pop(call, None)) is not None and started.at_most_once:
                    finished.append(started)
    for started in running.values():
        if started.at_most_once:
            return _failed(started, "was running when its worker was lost, and may have done its work")
    for started in finished if repeats else ():
        return _failed(started, "has run, and a new attempt would start from the input and call it again")
    again = {_inside(call) for call in running.values()}
    for started in finished:
        if _is_below(started, called, again, calls):
            how = "has run, and a new attempt would call the tool again that calls its agent"
            return _failed(started, how)
    return None


def _is_below(
    call: ToolStarted, called: Set[Place], again: Set[Place], calls: Mapping[Place, ToolStarted]
) -> bool:
    """Whether an agent makes this call within a tool that is called again, at any level above."""
    while call.place in called and (tool := _tool_of(call, calls)) is not None:
        if tool in again:
            return True
        call = calls[tool]
    return False


def _inside(call: ToolStarted) -> Place:
    """The place of a tool's agents. Several work beside it or below it, for the same tool use."""
    return Place(f"{call.agent}/{call.name}", call.tool_use_id)


def _tool_of(call: ToolStarted, calls: Mapping[Place, ToolStarted]) -> Place | None:
    """The place of the tool that the agent of a call works for."""
    path = call.agent
    while path and (path, call.call_id) not in calls:
        path = path.rpartition("/")[0]
    return Place(path, call.call_id) if path else None


def _failed(call: ToolStarted, what: str) -> Failed:
    tool = f"tool {call.name!r} of agent {call.agent!r} (tool use {call.tool_use_id})"
    return Failed(code=CODE, message=f"{tool} may be called at most once; it {what}")
