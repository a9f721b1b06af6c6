"""`tool.*`: calls of tools."""

from typing import Any, ClassVar

from runstore.core.events.agent import AgentEvent
from runstore.core.events.event import EventType


class ToolEvent(AgentEvent, frozen=True, kw_only=True):
    """An event of one tool call."""

    tool_use_id: str
    name: str

    def levels(self, field: str) -> int:
        """See `Event.levels`. An output is a list of blocks, as `[{"json": value}]`."""
        return 2 if field == "output" else 0


class ToolStarted(ToolEvent, frozen=True, kw_only=True):
    """Committed before the tool runs. `at_most_once`: no new attempt may call the tool again."""

    type: ClassVar[EventType] = "tool.started"
    input: Any = None
    at_most_once: bool = False


class ToolProgress(ToolEvent, frozen=True, kw_only=True):
    """Output of a streaming tool before it finishes."""

    type: ClassVar[EventType] = "tool.progress"
    output: Any = None


class ToolFinished(ToolEvent, frozen=True, kw_only=True):
    """The tool's result; a resumed run reuses it instead of calling the tool again."""

    type: ClassVar[EventType] = "tool.finished"
    output: Any = None


class ToolFailed(ToolEvent, frozen=True, kw_only=True):
    """The tool returned an error, which the model sees."""

    type: ClassVar[EventType] = "tool.failed"
    output: Any = None
