"""Translates strands' stream into our events. Pure, and on the path of every token.

Text that was recorded where the model said it (spoken.py) is passed over. All other text comes twice: as the
model's raw chunk, and as a `data` item that also carries the agent and the caller's state. Only the raw chunk
is read, so no live object gets into an event.

An agent inside a tool call (an agent as a tool, or a tool that passes an agent's stream on) arrives nested in
`tool_stream_event`, and a node of a Graph or Swarm in `multiagent_node_stream`. Both are unwrapped at any
depth: the path of an event's `agent` grows by the tool's name or the node's id, and `call_id` is the tool use
that the agent works for.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec

from runstore.core.events import (
    AgentFinished,
    AgentStarted,
    Event,
    Message,
    Place,
    ToolProgress,
    Usage,
)  # fmt: skip
from runstore.runtime.memory.held import bare
from runstore.runtime.strands.provider_words import ProviderWords
from runstore.runtime.strands.stream.answers import OpenAnswers
from runstore.runtime.strands.stream.chunks import RecordedChunk, said_in
from runstore.runtime.strands.stream.open_calls import OpenCalls
from runstore.runtime.strands.stream.servers.reported_usage import tokens_of

Item = Mapping[str, Any]
NOTHING: tuple[Event, ...] = ()
FIRST_OF_A_STREAM = (
    "init_event_loop",
    "multiagent_node_start",
)  # first items of an agent's or a Graph's stream


class Translator:
    """Translates one run's stream. Remembers which tool calls stream an agent, and whether an answer ended.

    Args:
        root: the path of the run's agent.
        models: path → model id, for `llm.usage`; may grow during the run.
        call_id: the tool use that the root works for.
        apart: paths of nodes whose start and stream are recorded elsewhere.
        answers: open answers of the agents, across all streams of the run.
        recorded: places of agents that are recorded elsewhere; may grow.
        words: texts of the run's model providers, which a tool's progress may quote.
        calls: the open model calls of the agents, across all streams of the run.
    """

    def __init__(
        self,
        root: str,
        models: Mapping[str, str] | None = None,
        *,
        call_id: str | None = None,
        apart: Set[str] = frozenset(),
        answers: OpenAnswers | None = None,
        recorded: Set[Place] = frozenset(),
        words: ProviderWords | None = None,
        calls: OpenCalls | None = None,
    ) -> None:
        self._own = Place(root, call_id)
        self._answers = answers or OpenAnswers()
        self._apart = apart
        self._recorded = recorded
        self._words = words or ProviderWords()
        self._calls = calls or OpenCalls()
        self._models = {} if models is None else models
        # A call that streams an agent → that agent's place. Agents that work at once may use equal ids.
        self._inner: dict[tuple[Place, str, str], Place] = {}
        self.broken_off = False  # the root's last answer has started, and its provider has not ended it

    def translate(self, item: Item) -> Sequence[Event]:
        """The events in one item of `stream_async`; most items hold none."""
        return self._translate(item, self._own)

    def _translate(self, item: Item, place: Place) -> Sequence[Event]:
        if len(item) == 1:
            raw = item.get("event")
            if raw is not None:
                return self._chunk(raw, place)
            return self._message(item.get("message"), place)
        if "delta" in item:
            return NOTHING  # the second copy of the token
        return self._wrapped(item, place)

    def _wrapped(self, item: Item, place: Place) -> Sequence[Event]:
        if "force_stop" in item:
            return self._answers.take_back(place, "failed")
        match item.get("type"):
            case "tool_stream":
                return self._tool(item["tool_stream_event"], place)
            case "multiagent_node_stream":
                inner = Place(f"{place.agent}/{item['node_id']}", place.call_id)
                return NOTHING if inner.agent in self._apart else self._translate(item["event"], inner)
            case "multiagent_node_start":
                path = f"{place.agent}/{item['node_id']}"
                return NOTHING if path in self._apart else (AgentStarted(agent=path, call_id=place.call_id),)
            case "multiagent_node_stop":
                inner = Place(f"{place.agent}/{item['node_id']}", place.call_id)
                finished = AgentFinished(agent=inner.agent, call_id=inner.call_id)
                return (*self._answers.withhold(inner), finished)
        return NOTHING

    def _tool(self, streamed: Item, place: Place) -> Sequence[Event]:
        tool_use, data = streamed["tool_use"], streamed.get("data")
        use_id, name = tool_use["toolUseId"], tool_use["name"]
        call = (place, name, use_id)
        inner = self._inner.get(call)
        if isinstance(data, dict):
            if inner is None and (data.get("type") in FIRST_OF_A_STREAM or "init_event_loop" in data):
                inner = self._inner[call] = Place(f"{place.agent}/{name}", use_id)
            if inner is not None:
                return NOTHING if inner in self._recorded else self._translate(data, inner)
        output = self._words.replaced(data)
        progress = ToolProgress(
            agent=place.agent, call_id=place.call_id, tool_use_id=use_id, name=name, output=output
        )
        return (progress,)

    def _chunk(self, raw: Item, place: Place) -> Sequence[Event]:
        if "contentBlockDelta" not in raw and "contentBlockStart" not in raw:
            return self._beside_text(raw, place)
        # strands' Ollama begins a text block before it asks the provider.
        if "contentBlockDelta" in raw or raw["contentBlockStart"].get("start"):
            self._calls.speak(place)
        piece = None if isinstance(raw, RecordedChunk) else said_in(raw)
        return NOTHING if piece is None else (self._answers.say(place, piece),)

    def _beside_text(self, raw: Item, place: Place) -> Sequence[Event]:
        if "metadata" in raw:
            return self._usage(raw, place)
        if place == self._own and place.call_id is None:
            self.broken_off = "messageStart" in raw or (self.broken_off and "messageStop" not in raw)
        if "messageStop" in raw:
            self._calls.finish(place, raw["messageStop"].get("stopReason"))
            return NOTHING
        if "messageStart" in raw:
            self._answers.start(place)
            return NOTHING
        replaced = raw.get("redactContent", {}).get("redactAssistantContentMessage")
        return NOTHING if replaced is None else self._answers.redact(place, replaced)

    def _usage(self, raw: Item, place: Place) -> Sequence[Event]:
        reported = raw["metadata"].get("usage")
        if not reported:
            return NOTHING
        used = {**tokens_of(reported), **self._calls.end(place)}
        usage = Usage(
            agent=place.agent,
            call_id=place.call_id,
            model=self._models.get(place.agent),
            input_tokens=0,
            output_tokens=0,
        )
        return (msgspec.structs.replace(usage, **used),)

    def _message(self, message: Item | None, place: Place) -> Sequence[Event]:
        if message is None or place.agent in self._answers.written:
            return NOTHING
        completing = self._answers.complete(place, message)
        return (*completing, Message(agent=place.agent, call_id=place.call_id, message=bare(message)))
