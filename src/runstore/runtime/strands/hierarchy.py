"""Finds the agents below an agent, Graph or Swarm, and the tool calls that they work in."""

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from msgspec import Struct
from strands import Agent
from strands.multiagent.base import MultiAgentBase

from runstore.core.events import Place


class SubAgentCall(Struct, eq=False):
    """A tool call in which a sub-agent works; `outer` is its caller's call."""

    agent: Agent
    place: Place
    outer: "SubAgentCall | None"


# The tool call in which the present task works. strands runs a call, and with it all hooks of a sub-agent,
# in the call's own task, so this distinguishes overlapping calls.
CALL: ContextVar[SubAgentCall | None] = ContextVar("runstore_call", default=None)


def call_of(agent: Agent) -> SubAgentCall | None:
    """The tool call that an agent currently works in; None if it was not called as a tool."""
    call = CALL.get()
    while call is not None and call.agent is not agent:
        call = call.outer
    return call


def called_agent(tool: Any) -> Agent | None:
    """The agent behind an agent as a tool."""
    agent = getattr(tool, "agent", None) if getattr(tool, "tool_type", None) == "agent" else None
    return agent if isinstance(agent, Agent) else None


def agents_of(product: Any, path: str, seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Agent]]:
    """Every agent of a hierarchy with its path, from the top.

    An agent that contains itself is visited once.
    """
    if id(product) in seen:
        return
    seen = seen | {id(product)}
    if isinstance(product, Agent):
        yield path, product
        tools = {**product.tool_registry.registry, **product.tool_registry.dynamic_tools}
        for name, tool in tools.items():
            if (agent := called_agent(tool)) is not None:
                yield from agents_of(agent, f"{path}/{name}", seen)
    elif isinstance(product, MultiAgentBase):
        for node_id, node in getattr(product, "nodes", {}).items():
            yield from agents_of(node.executor, f"{path}/{node_id}", seen)
