"""A Graph or Swarm that one of its own limits ends: strands reports a failure without a failed node."""

import pytest
from strands.multiagent import GraphBuilder, Swarm

from runstore.core.errors import AgentError
from tests.runtime.strands_kit import Playbook, agent, drive, say, use


async def test_a_graph_that_reaches_its_limit_names_its_limits() -> None:
    builder = GraphBuilder()
    for name in ("a", "b"):
        builder.add_node(agent(Playbook(*[say(name)] * 5), name=name), name)
    builder.add_edge("a", "b")
    builder.add_edge("b", "a")
    builder.set_entry_point("a")
    builder.set_max_node_executions(3)
    with pytest.raises(AgentError, match="the Graph ended as failed: it reached max_node_executions"):
        await drive(builder.build())


async def test_a_swarm_that_reaches_its_limit_names_its_limits() -> None:
    def passing(name: str, to: str) -> Playbook:
        call = ("h", "handoff_to_agent", {"agent_name": to, "message": "you"})
        return Playbook(*[turn for _ in range(5) for turn in (use(call), say(f"{name} is done"))])

    agents = [agent(passing("a", "b"), name="a"), agent(passing("b", "a"), name="b")]
    with pytest.raises(AgentError, match="the Swarm ended as failed: it reached max_handoffs"):
        await drive(Swarm(agents, max_handoffs=2))
