"""Answers the tool calls of a replay from the log: a call's tool is replaced before any of its code runs."""

from collections.abc import AsyncGenerator
from typing import Any

from strands.hooks import BeforeToolCallEvent
from strands.middleware import ToolResultEvent
from strands.types.tools import AgentTool, ToolSpec, ToolUse
from typing_extensions import override

from runstore.core.content import with_bytes
from runstore.core.errors import AgentError
from runstore.core.events import Place
from runstore.runtime.replay.dialogues import RecordedCall
from runstore.runtime.replay.follower import Follower
from runstore.runtime.strands.hierarchy import called_agent
from runstore.runtime.strands.recorders.closable_recorder import ClosableRecorder
from runstore.runtime.strands.recorders.tools import OVER

NOT_APPROVED = "Error: the tool needs a person's approval, which a replay cannot get."


class Replies:
    """The replies to one replay's tool calls."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def reply(
        self, event: BeforeToolCallEvent, place: Place, recorder: ClosableRecorder, *, asks: bool
    ) -> None:
        """Let the log answer a tool call that is about to run.

        A real tool runs only after a difference, if the replay goes on then. The tool that takes an agent's
        structured output runs always: it checks the object.

        Args:
            asks: a person has to approve the real call.
        """
        tool, use_id = event.selected_tool, event.tool_use["toolUseId"]
        if getattr(tool, "tool_type", None) == "structured_output":
            return
        agent = called_agent(tool)
        try:
            call = self._follower.reply(
                place, event.tool_use, exists=tool is not None, is_agent=agent is not None
            )
        except AgentError as difference:
            recorder.close(difference)
            event.cancel_tool = OVER
            return
        if call is not None:
            event.selected_tool = RecordedTool(call)
        elif asks and not self._follower.knows(place, use_id):
            event.cancel_tool = NOT_APPROVED


class RecordedTool(AgentTool):
    """Returns the recorded result of one call."""

    def __init__(self, call: RecordedCall) -> None:
        super().__init__()
        self._call = call

    @property
    @override
    def tool_name(self) -> str:
        return self._call.name

    @property
    @override
    def tool_spec(self) -> ToolSpec:
        schema = {"json": {"type": "object", "properties": {}}}
        return {"name": self._call.name, "description": "A recorded call.", "inputSchema": schema}

    @property
    @override
    def tool_type(self) -> str:
        return "recorded"

    @override
    async def stream(
        self, tool_use: ToolUse, invocation_state: dict[str, Any], **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        content: Any = [with_bytes(block) for block in self._call.output]
        status = self._call.status or "error"
        yield ToolResultEvent({"toolUseId": tool_use["toolUseId"], "status": status, "content": content})
