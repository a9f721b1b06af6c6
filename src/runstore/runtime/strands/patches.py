"""The methods of other packages that runstore replaces for the whole process.

Each has no hook for what runstore needs, and the docstring of its replacement names the difference:

- strands' agents, graphs and swarms, and thread pools: agents that a tool's code calls belong to the tool's
  run (`recorders/called.py`). Outside of a tool these methods are unchanged in effect.
- strands' tool registry and `Agent.__del__`: MCP servers are closed without blocking a thread, and shared by
  runs (`providers.py`).
- httpx's `AsyncClient.send`: the provider's own id of a model call (`stream/servers/request_ids.py`). Outside
  of a model call it is unchanged in effect.

Methods of modules that not every process imports are replaced when an agent first needs them: strands' MCP
client (`providers.py`), and its classes of models (`stream/servers/mended.py`, `stream/format_chunks.py`).
docs/internals/internals-of-others.md has the reasons.
"""

from concurrent.futures import ThreadPoolExecutor

import httpx
from strands import Agent
from strands.multiagent import Swarm
from strands.multiagent.graph import Graph
from strands.tools.registry import ToolRegistry

from runstore.runtime.strands import providers
from runstore.runtime.strands.recorders import called
from runstore.runtime.strands.stream.servers import request_ids


def apply() -> None:
    """Replace the methods. Safe to call twice; must come before the first agent of a run is made."""
    Agent.stream_async = called.stream_async  # type: ignore[method-assign]
    Agent.structured_output_async = called.structured_output_async  # type: ignore[method-assign]
    Graph.stream_async = called.graph_stream_async  # type: ignore[method-assign]
    Swarm.stream_async = called.swarm_stream_async  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = called.submit  # type: ignore[method-assign,assignment]
    ToolRegistry.process_tools = providers.process_tools  # type: ignore[method-assign]
    ToolRegistry.cleanup = providers.cleanup  # type: ignore[method-assign]
    Agent.__del__ = providers.finalize  # type: ignore[method-assign]
    httpx.AsyncClient.send = request_ids.send  # type: ignore[method-assign]
