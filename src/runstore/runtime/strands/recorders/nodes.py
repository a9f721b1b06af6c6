"""The nodes of a Graph or Swarm, which resumes from the log through its own control flow.

A new attempt runs the product from the input again, so that conditions, loops, joins and handoffs stay
strands' own. A node that already answered is not run: its agent gets the conversation of that visit from the
log and ends with it; an interrupted node continues in the middle. This holds while each node gets the same
input as before, which is compared. From the first node with another input on, all work is repeated.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from strands import Agent
from strands.hooks import BeforeNodeCallEvent, BeforeToolCallEvent
from strands.multiagent import Swarm
from strands.multiagent.base import MultiAgentBase
from strands.multiagent.graph import Graph

from runstore.core.events import Place
from runstore.runtime.memory.resume import Conversation, tool_uses
from runstore.runtime.strands.recorders.interrupts import Interrupts
from runstore.runtime.strands.recorders.model_calls import FIRST
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.stream.events import Translator

HANDOFF = "handoff_to_agent"  # the tool with which an agent of a Swarm names the next one


class Node(NamedTuple):
    """An agent in a Graph or Swarm. `path`: its place in the hierarchy."""

    orchestrator: Graph | Swarm
    node_id: str
    path: str
    agent: Agent


def goes_on(product: Any) -> bool:
    """Whether a new attempt can resume from the log instead of restarting from the input."""
    if isinstance(product, Graph | Swarm):
        inner = [node.executor for node in product.nodes.values()]
        return product.session_manager is None and all(
            goes_on(each) for each in inner if isinstance(each, MultiAgentBase)
        )
    return isinstance(product, Agent)


def runs_only_agents(product: Any) -> bool:
    """Whether every node is an agent of this process, as opposed to a remote one."""
    if isinstance(product, Graph | Swarm):
        return all(runs_only_agents(node.executor) for node in product.nodes.values())
    return isinstance(product, Agent)


def nodes_of(product: Any, path: str) -> Iterator[Node]:
    """Every agent that is a node, including those of nested Graphs and Swarms."""
    if isinstance(product, Graph | Swarm):
        for node_id, node in product.nodes.items():
            inner = f"{path}/{node_id}"
            if isinstance(node.executor, Agent):
                yield Node(product, node_id, inner, node.executor)
            else:
                yield from nodes_of(node.executor, inner)


class Nodes:
    """The nodes of one attempt.

    Each is recorded in its own task, as a Graph's stream lags behind its hooks.
    """

    def __init__(self, nodes: Sequence[Node], recording: Recording, interrupts: Interrupts) -> None:
        self.paths = {node.path for node in nodes}
        self._places = {(id(node.orchestrator), node.node_id): node.path for node in nodes}
        self._swarm = [node.agent for node in nodes if isinstance(node.orchestrator, Swarm)]
        self._recording = recording
        self._interrupts = interrupts
        for orchestrator in {id(node.orchestrator): node.orchestrator for node in nodes}.values():
            orchestrator.add_hook(self._before_node, BeforeNodeCallEvent, order=FIRST)

    def listen(self, node: Node, translator: Translator) -> None:
        """Record a node's stream from now on."""
        stream = node.agent.stream_async

        async def recorded(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            async with aclosing(stream(*arguments, **options)) as items:  # type: ignore[type-var]
                async for item in items:
                    try:
                        if "delta" not in item:
                            await self._recording.record(translator.translate(item))
                    except asyncio.CancelledError:
                        _cancel_again()
                    yield item

        node.agent.stream_async = recorded  # type: ignore[method-assign]

    async def hand_over(self, agent: Agent, past: Conversation) -> None:
        """Repeat the handoffs of a Swarm's agent, as strands remembers them only by their effects."""
        if not any(agent is member for member in self._swarm):
            return
        tool = agent.tool_registry.registry[HANDOFF]
        for message in past.messages:
            for tool_use in tool_uses(message):
                if tool_use["name"] == HANDOFF and tool_use["toolUseId"] in past.results:
                    async for _ in tool.stream(dict(tool_use), {}):  # type: ignore[arg-type]
                        pass

    def hands_over(self, event: BeforeToolCallEvent) -> bool:
        """Whether an agent of a Swarm names the next one."""
        return event.tool_use["name"] == HANDOFF and any(event.agent is member for member in self._swarm)

    def _before_node(self, event: BeforeNodeCallEvent) -> None:
        self._interrupts.answer_node(event)
        if (path := self._places.get((id(event.source), event.node_id))) is not None:
            self._recording.inputs.pop(Place(path), None)  # the agent begins again


def _cancel_again() -> None:
    """Cancel the node at its next wait.

    Ending it here, between two items, would leave its tools and spans to the garbage collector.
    """
    if task := asyncio.current_task():
        task.cancel()
