"""Methods of other packages that are replaced for the whole process."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from strands import Agent
from strands.multiagent import Swarm
from strands.multiagent.graph import Graph
from strands.tools.registry import ToolRegistry

import runstore.runtime.strands.agent  # noqa: F401
from runstore.runtime.strands import patches


def _methods() -> list[Any]:
    return [
        Agent.stream_async,
        Agent.structured_output_async,
        Agent.__del__,
        Graph.stream_async,
        Swarm.stream_async,
        ThreadPoolExecutor.submit,
        ToolRegistry.process_tools,
        ToolRegistry.cleanup,
        httpx.AsyncClient.send,
    ]


def test_the_adapter_replaces_the_methods_when_it_is_imported() -> None:
    assert all(method.__module__.startswith("runstore.") for method in _methods())


def test_methods_that_are_replaced_twice_are_those_that_were_replaced_once() -> None:
    before = _methods()
    patches.apply()
    assert _methods() == before
