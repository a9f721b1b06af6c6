"""The events of a run. One file for each family of types; a released type never changes its meaning.

A new field needs a default, so that old events still decode. A field that changes its shape needs a new
`version` and an upcast in `codec.UPCASTS`.
"""

from runstore.core.events.agent import AgentEvent as AgentEvent
from runstore.core.events.agent import AgentFinished as AgentFinished
from runstore.core.events.agent import AgentStarted as AgentStarted
from runstore.core.events.agent import Place as Place
from runstore.core.events.audit import AuditedRead as AuditedRead
from runstore.core.events.audit import AuditErased as AuditErased
from runstore.core.events.audit import AuditProjection as AuditProjection
from runstore.core.events.audit import AuditRead as AuditRead
from runstore.core.events.audit import ProjectionCommand as ProjectionCommand
from runstore.core.events.event import CUSTOM_TYPE as CUSTOM_TYPE
from runstore.core.events.event import Custom as Custom
from runstore.core.events.event import Event as Event
from runstore.core.events.event import EventType as EventType
from runstore.core.events.event import Posted as Posted
from runstore.core.events.event import Unknown as Unknown
from runstore.core.events.input import InputAdded as InputAdded
from runstore.core.events.input import InputGiven as InputGiven
from runstore.core.events.input import InputKind as InputKind
from runstore.core.events.input import InputRequested as InputRequested
from runstore.core.events.lifecycle import STRATEGIES as STRATEGIES
from runstore.core.events.lifecycle import SUPERSEDED as SUPERSEDED
from runstore.core.events.lifecycle import Cancelled as Cancelled
from runstore.core.events.lifecycle import CancelRequested as CancelRequested
from runstore.core.events.lifecycle import Completed as Completed
from runstore.core.events.lifecycle import Ending as Ending
from runstore.core.events.lifecycle import Failed as Failed
from runstore.core.events.lifecycle import MultitaskStrategy as MultitaskStrategy
from runstore.core.events.lifecycle import Outcome as Outcome
from runstore.core.events.lifecycle import Queued as Queued
from runstore.core.events.lifecycle import Started as Started
from runstore.core.events.lifecycle import StartReason as StartReason
from runstore.core.events.lifecycle import WithheldText as WithheldText
from runstore.core.events.llm import Context as Context
from runstore.core.events.llm import ContextKind as ContextKind
from runstore.core.events.llm import ContextReduced as ContextReduced
from runstore.core.events.llm import Discarded as Discarded
from runstore.core.events.llm import DiscardReason as DiscardReason
from runstore.core.events.llm import InputReplaced as InputReplaced
from runstore.core.events.llm import Message as Message
from runstore.core.events.llm import MessageRange as MessageRange
from runstore.core.events.llm import Reasoning as Reasoning
from runstore.core.events.llm import Redacted as Redacted
from runstore.core.events.llm import Request as Request
from runstore.core.events.llm import Retrying as Retrying
from runstore.core.events.llm import Token as Token
from runstore.core.events.llm import Usage as Usage
from runstore.core.events.run import Deleted as Deleted
from runstore.core.events.run import ModelUsage as ModelUsage
from runstore.core.events.run import Purged as Purged
from runstore.core.events.run import ToolUsage as ToolUsage
from runstore.core.events.tool import ToolEvent as ToolEvent
from runstore.core.events.tool import ToolFailed as ToolFailed
from runstore.core.events.tool import ToolFinished as ToolFinished
from runstore.core.events.tool import ToolProgress as ToolProgress
from runstore.core.events.tool import ToolStarted as ToolStarted

EVENT_CLASSES: dict[EventType, type[Event]] = {
    cls.type: cls
    for cls in (
        Queued, Started, Completed, Failed, Cancelled, CancelRequested, AgentStarted, AgentFinished,
        Token, Reasoning, Request, Context, Message, InputReplaced, ContextReduced, Usage, Discarded,
        Redacted, Retrying, ToolStarted, ToolProgress, ToolFinished, ToolFailed, InputRequested,
        InputGiven, InputAdded, Deleted, Purged, AuditRead, AuditErased, AuditProjection,
    )
}  # fmt: skip

ENDINGS: dict[EventType, type[Ending]] = {cls.type: cls for cls in (Completed, Failed, Cancelled)}
# These move their run, as every ending does.
CONTROL_TYPES = frozenset(
    {Queued.type, Started.type, CancelRequested.type, InputRequested.type, InputGiven.type, InputAdded.type}
)
TEXT_TYPES = frozenset({Token.type, Reasoning.type})
STREAMED_TYPES = TEXT_TYPES | {Redacted.type}  # types so frequent that only streams read them
