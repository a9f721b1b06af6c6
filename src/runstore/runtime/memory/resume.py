"""Rebuilds the conversations of a run's agents from its log, for a new attempt. Pure.

Root and sub-agents are rebuilt alike. A sub-agent's conversation lasts as long as the tool call that it works
for: once the call has a result, its caller needs only that. A node of a Graph or Swarm has one conversation
per visit, which lasts as long as the run: the control flow repeats all visits, and finds each as the last
attempt left it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from msgspec import Struct, field

from runstore.core.codec import RecordedEvent, decode, to_json
from runstore.core.content import message_with_bytes, with_bytes, without_empty
from runstore.core.events import (
    AgentStarted,
    InputGiven,
    InputReplaced,
    InputRequested,
    Message,
    Place,
    Started,
    Token,
    ToolFailed,
    ToolFinished,
    ToolStarted,
    Usage,
)
from runstore.core.folds.transcript import SEPARATOR, message_text
from runstore.core.run import add_usage
from runstore.runtime.memory.oversized import continued, with_results
from runstore.runtime.memory.unheard import Range, UnheardMessages

# Beginnings of the ids of interrupts that outlast a turn.
LASTING = ("v1:middleware_agent_stream:", "v1:before_node_call:")

READ = frozenset(
    cls.type
    for cls in (
        AgentStarted,
        InputGiven,
        InputReplaced,
        InputRequested,
        Message,
        Started,
        ToolFailed,
        ToolFinished,
        ToolStarted,
        Usage,
    )
)


class Answered(Struct, frozen=True):
    """A person's answer to an interrupt of an agent."""

    interrupt_id: str
    name: str
    answer: Any


class Conversation(Struct):
    """One agent's messages after its input, and every tool result that it had or still needs.

    `unrepeatable`: the name of an at-most-once tool that the agent has called.
    `tokens_of_calls`: the number of the message that makes a call, and its tool use id, which another message
    may use, too → the text of that finished call's agents.
    `replacements`: replacements of its input, in order.
    """

    place: Place
    messages: list[dict[str, Any]] = field(default_factory=list)
    replacements: list[InputReplaced] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)  # tool use id → status and content
    unrepeatable: str | None = None
    tokens_of_calls: dict[tuple[int, str], list[Token]] = field(default_factory=dict)
    incomplete: bool = False  # the last message continues in the next event
    answers: dict[str, Answered] = field(default_factory=dict)  # request id → answer, until the next message
    taken: list[Range] = field(default_factory=list)  # the added messages that it holds

    def add(self, event: Message) -> None:
        """Take its next message, or the next part of one.

        Some models use the same tool use ids in every turn, so a new call does not get an earlier result.
        """
        if event.message.get("role") == "assistant":
            for tool_use in tool_uses(event.message):
                self.results.pop(tool_use["toolUseId"], None)
        message = message_with_bytes(with_results(event.message, self.results))
        if self.incomplete:
            message = continued(self.messages.pop(), message)
        self.messages.append(message)
        self.incomplete = event.more
        self.answers = {
            request_id: each
            for request_id, each in self.answers.items()
            if each.interrupt_id.startswith(LASTING)
        }

    def drop_incomplete(self) -> None:
        """Drop the beginning of a message whose rest was never stored, and empty messages."""
        if self.incomplete:
            self.messages.pop()
            self.incomplete = False
        self.messages = without_empty(self.messages)

    @property
    def ending(self) -> str | None:
        """The text of the last message if it is an answer, so that only the ending was missing."""
        last = self.messages[-1] if self.messages else {}
        return message_text(last) if last.get("role") == "assistant" and not tool_uses(last) else None

    @property
    def broken_off(self) -> bool:
        """Whether the last message is the beginning of an answer without any text."""
        last = self.messages[-1] if self.messages else {}
        content = last.get("content", ())
        return last.get("role") == "assistant" and bool(content) and all(map(is_unsigned, content))

    def with_input(self, input: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The whole conversation: the input as replaced, and the messages after it."""
        messages = list(input)
        for replacement in self.replacements:
            messages = replaced(messages, replacement)
        return [*messages, *self.messages]

    def all_said(self) -> Iterator[Token]:
        """The text of its complete messages, and of the calls that are over.

        A reader finds no end of a message between two tokens of one agent, so the second begins with it.
        """
        before = ""
        for number, message in enumerate(self.messages):
            if message.get("role") == "assistant":
                if text := message_text(message):
                    yield Token(agent=self.place.agent, call_id=self.place.call_id, text=before + text)
                    before = SEPARATOR
                for tool_use in tool_uses(message):
                    for token in self.tokens_of_calls.get((number, tool_use["toolUseId"]), ()):
                        yield token
                        before = ""

    def said_below(self) -> Iterator[Token]:
        """The text of finished calls that the last message makes."""
        for tool_use in tool_uses(self.messages[-1]):
            yield from self.tokens_of_calls.get((len(self.messages) - 1, tool_use["toolUseId"]), ())


class Visit(Conversation):
    """A node's conversation for an input; answers to another input are useless."""

    input_digest: str | None = None


class Memory(Struct):
    """The state that earlier attempts left."""

    conversations: dict[Place, Conversation] = field(default_factory=dict)
    visits: dict[str, list[Visit]] = field(default_factory=dict)
    # Visits of each node that the present attempt has reached.
    begun: dict[str, int] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    unheard: UnheardMessages = field(default_factory=UnheardMessages)  # added messages that no agent has
    # Open requests: the conversation that needs the answer.
    requests: dict[str, tuple[Conversation, InputRequested]] = field(default_factory=dict)

    def visit(self, path: str, input_digest: str | None) -> Visit | None:
        """The next visit to a node as the last attempt left it; None if it had not come so far.

        A visit with another input is empty, and all later visits of the node are dropped.
        """
        number = self.begun[path] = self.begun.get(path, 0) + 1
        visits = self.visits.setdefault(path, [])
        past = visits[number - 1] if number <= len(visits) else None
        if past is None or input_digest is None or past.input_digest != input_digest:
            for dropped in visits[number - 1 :]:
                self.give_back(dropped)
            del visits[number - 1 :]
            self._forget_below(path)
            visits.append(Visit(Place(path), input_digest=input_digest))
            return Visit(Place(path), unrepeatable=past.unrepeatable) if past else None
        return past

    def at(self, place: Place) -> Conversation:
        """The conversation that continues at a place."""
        path, call_id = place
        if call_id is None and path in self.begun:
            return self.visits[path][self.begun[path] - 1]
        return self.conversations.setdefault(place, Conversation(place))

    def close(self, place: Place) -> list[Token]:
        """End a sub-agent's conversation and those below it, as another call may reuse the id."""
        conversation = self.conversations.pop(place, None)
        if conversation is None:
            return []
        self._forget_below(place.agent)
        return list(conversation.all_said())

    def answer(self, given: InputGiven) -> None:
        """Give an answer to the conversation that asked."""
        if (found := self.requests.pop(given.request_id, None)) is not None:
            conversation, request = found
            if request.interrupt_id is not None:
                answered = Answered(request.interrupt_id, request.name or "", given.answer)
                conversation.answers[given.request_id] = answered

    def interrupt(self) -> None:
        """End all work of an attempt."""
        self.begun.clear()
        for conversation in (*self.conversations.values(), *(v for all in self.visits.values() for v in all)):
            conversation.drop_incomplete()
            if not conversation.messages:
                self.give_back(conversation)

    def give_back(self, conversation: Conversation) -> None:
        """Let the next agent take the added messages of a conversation that begins from its input."""
        self.unheard.give_back(conversation.taken)
        conversation.taken = []

    def _forget_below(self, path: str) -> None:
        for place in [place for place in self.conversations if place.agent.startswith(f"{path}/")]:
            del self.conversations[place]


def recall(history: Iterable[RecordedEvent]) -> Memory:
    """The conversations that were open at the end of the last attempt, and the usage of all attempts."""
    memory = Memory()
    for recorded in history:
        if recorded.type in READ:
            _recall(memory, decode(recorded.type, recorded.version, recorded.data))
    memory.interrupt()
    return memory


def discard_after(history: Sequence[RecordedEvent]) -> int | None:
    """The seq after which a resumed run says streamed text again (`lifecycle.started`'s `discard_after_seq`).

    It is the seq of the last `llm.message` of the run's own agent; before the first one, that of the first
    `lifecycle.started`; None when the run was never started. `history` may leave out streamed text.

    A client that follows the run keeps the `llm.token` and `llm.reasoning` events with a seq up to this one,
    and drops the later ones that stand before the new `lifecycle.started`. Among those may be text of a
    sub-agent which is not said again, since it had been complete: its `llm.message` events still hold it.
    """
    found: int | None = None
    for recorded in history:
        if recorded.type == Started.type:
            found = recorded.seq if found is None else found
        elif recorded.type == Message.type:
            message = decode(recorded.type, recorded.version, recorded.data)
            if isinstance(message, Message) and is_root(message.agent) and not message.more:
                found = recorded.seq
    return found


def may_redact(history: Iterable[RecordedEvent]) -> bool:
    """Whether the unfinished text of the last attempt might still have been redacted."""
    for recorded in history:
        if recorded.type == AgentStarted.type:
            started = decode(recorded.type, recorded.version, recorded.data)
            if isinstance(started, AgentStarted) and started.redacts:
                return True
    return False


def is_root(path: str) -> bool:
    """Whether a path is that of the run's own agent; agents' names contain no slash."""
    return "/" not in path


def is_run(place: Place) -> bool:
    """Whether the run's own agent works at this place."""
    return place.call_id is None and is_root(place.agent)


def digest_of(messages: Iterable[Mapping[str, Any]]) -> str:
    """A digest of a node's input that ignores the order of its blocks.

    strands gathers the answers of earlier nodes from a set, whose order differs between processes.
    """
    blocks = sorted(to_json(block) for message in messages for block in message.get("content", ()))
    return sha256(b"\n".join(blocks)).hexdigest()[:32]


def replaced(messages: Sequence[dict[str, Any]], replacement: InputReplaced) -> list[dict[str, Any]]:
    """A conversation after an `llm.input_replaced`."""
    kept = messages[: max(0, len(messages) - replacement.count)]
    return [*kept, *map(message_with_bytes, replacement.messages)]


def is_unsigned(block: Mapping[str, Any]) -> bool:
    """Whether a content block is reasoning without a signature, which providers refuse as input."""
    reasoning = block.get("reasoningContent")
    return reasoning is not None and not (
        reasoning.get("reasoningText", {}).get("signature") or reasoning.get("redactedContent")
    )


def _recall(memory: Memory, event: Any) -> None:
    if isinstance(event, Usage):
        memory.usage = add_usage(memory.usage, event)
        return
    if isinstance(event, Started):
        memory.interrupt()
        return
    if isinstance(event, AgentStarted):
        if event.call_id is None and not is_root(event.agent):
            memory.visit(event.agent, event.input_digest)
        return
    if isinstance(event, InputGiven):
        memory.answer(event)
        return
    conversation = memory.at(event.place)
    if isinstance(event, InputRequested):
        memory.requests[event.request_id] = (conversation, event)
    elif isinstance(event, Message):
        conversation.add(event)
    elif isinstance(event, InputReplaced):
        if event.added is not None:
            conversation.taken += memory.unheard.take(event.added)
        if conversation.messages:
            conversation.messages = replaced(conversation.messages, event)
        else:
            conversation.replacements.append(event)
    elif isinstance(event, ToolStarted):
        conversation.unrepeatable = event.name if event.at_most_once else conversation.unrepeatable
    elif isinstance(event, ToolFinished | ToolFailed):
        status = "success" if isinstance(event, ToolFinished) else "error"
        conversation.results[event.tool_use_id] = {
            "status": status,
            "content": [with_bytes(block) for block in event.output or ()],
        }
        if tokens := memory.close(Place(f"{event.agent}/{event.name}", event.tool_use_id)):
            conversation.tokens_of_calls[len(conversation.messages) - 1, event.tool_use_id] = tokens


def tool_uses(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tool calls of a message."""
    return [block["toolUse"] for block in message.get("content", ()) if "toolUse" in block]
