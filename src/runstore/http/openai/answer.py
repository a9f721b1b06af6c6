"""A run's answer to a chat: its own agent's text. One fold for streams and for whole answers. Pure."""

from typing import Any

from runstore.core.events import AgentStarted, Discarded, Message, Reasoning, Started, Token, ToolStarted
from runstore.core.folds.transcript import Transcript
from runstore.core.ports import EventFilter
from runstore.core.records import EventRecord

ANSWER_TYPES = frozenset(
    cls.type for cls in (Started, AgentStarted, Token, Reasoning, Discarded, Message, ToolStarted)
)
ANSWER_EVENTS = EventFilter(types=ANSWER_TYPES)
MESSAGE_ENDS = (Message.type, ToolStarted.type)


class ChatAnswer:
    """The answer, as the run's events arrive.

    It is the text of the run's own agent, or of the nodes of its Graph or Swarm: all messages, with a blank
    line between two. The text of agents within a tool call belongs to the call. An agent with structured
    output answers with its JSON object, without any other text.

    `content`, `reasoning`: the parts that the last event added.

    Args:
        kept: whether to keep the `whole` answer.
    """

    def __init__(self, *, kept: bool = False) -> None:
        self.content = ""
        self.reasoning = ""
        self._text = Transcript(kept=kept)
        self._reasoning = Transcript(Reasoning.type, kept=kept)
        self._structured = False

    def add(self, event: EventRecord) -> None:
        """Take the next event of the run, except for its ending."""
        self.content = self.reasoning = ""
        if event.type == Token.type:
            if is_own(event) and not self._structured:
                self._text.add(event)
                self.content = _sendable(self._text.added)
            return
        if event.type == AgentStarted.type:
            if event.data.get("structured_output"):
                self._structured = True
            return
        if not is_own(event):
            return
        self._reasoning.add(event)
        self.reasoning = _sendable(self._reasoning.added)
        takes_back = event.type in (Started.type, Discarded.type)
        if takes_back or not (self._structured or event.type == Reasoning.type):
            self._text.add(event)
            self.content = _sendable(self._text.added)

    def end(self, seq: int, result: dict[str, Any]) -> None:
        """Take the result of the run, which ends with the event `seq`: the part that was not streamed."""
        self.content = self.reasoning = ""
        self._text.end(seq, result)
        self.content = _sendable(self._text.added)

    @property
    def cut(self) -> bool:
        """Whether the answer is only the beginning of one, as the run's result has no more of it."""
        return self._text.cut

    @property
    def whole(self) -> tuple[str, str]:
        """All of the content, and all of the reasoning."""
        return _sendable(self._text.text), _sendable(self._reasoning.text)


def _sendable(text: str) -> str:
    """A text without NUL: its client sends it back with the next turn, and no body may hold that."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def is_own(event: EventRecord) -> bool:
    """Whether an event belongs to the run itself, and not to an agent that works for a tool call."""
    return event.data.get("call_id") is None
