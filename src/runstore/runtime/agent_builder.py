"""Builds the agent of an attempt: in this process, or in a process of its own."""

from runstore.core.events import Queued
from runstore.core.ports import Agent, Conversations, RunContext
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.loops import Isolation
from runstore.runtime.process.agent import ProcessAgent
from runstore.runtime.process.processes import Processes
from runstore.runtime.session_memory import remembering


class AgentBuilder:
    """Builds agents of the catalog.

    Args:
        log: has the messages that an agent remembers of its session.
    """

    def __init__(self, catalog: AgentCatalog, processes: Processes, log: Conversations) -> None:
        self._catalog = catalog
        self._processes = processes
        self._log = log

    def isolation(self, agent: str) -> Isolation:
        """Where an agent runs."""
        return self._catalog.isolation(agent)

    async def build(self, context: RunContext, queued: Queued) -> Agent:
        """The agent of one attempt.

        Raises:
            AgentNotFound, AgentError, ConfigError: see `AgentCatalog.build`.
        """
        context, name = await remembering(self._log, context, queued), context.agent_name
        if self.isolation(name) == "process":
            return ProcessAgent(self._processes, self._catalog.spec(name), context)
        return await self._catalog.build(name, context, queued.definition)
