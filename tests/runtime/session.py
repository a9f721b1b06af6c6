"""Runs of one session in a log in memory, each driven by an attempt runner, as a worker does."""

from typing import Any, cast
from weakref import WeakSet

from runstore.core.events import Event, Queued
from runstore.core.ids import new_run_id
from runstore.core.ports import Agent, RunContext
from runstore.feed.memory import MemoryFeed
from runstore.runtime.attempts.history import read_start
from runstore.runtime.attempts.runner import AttemptRunner
from runstore.runtime.memory.session_memory import read_memory, remembering
from runstore.runtime.strands.agent import Product, StrandsAgent
from tests.contracts.memory_log import MemoryEventLog
from tests.kit.events import started
from tests.runtime.recording import read


class Session:
    """A session of one user."""

    def __init__(self) -> None:
        self.log = MemoryEventLog(MemoryFeed())
        self.runs: list[str] = []

    async def turn(self, product: Product, asked: Any, *, agent: str = "demo", **queued: Any) -> Event:
        """The next run: what a strands agent makes of an input. Returns how it ended."""
        run_id = new_run_id()
        self.runs.append(run_id)
        beginning = Queued(
            agent=agent, user_id="alice", input=asked, session_id="s", **{"memory": "session", **queued}
        )
        await self.log.append(run_id, [beginning, started()], expected_seq=0)

        async def build(context: RunContext, queued: Queued) -> Agent:
            return StrandsAgent(product, await remembering(self.log, context, queued), WeakSet())

        context = RunContext(run_id, "alice", agent, "s", {}, 1)
        await AttemptRunner(self.log, build, cast(Any, None), context, beginning, []).run()
        ending = read((await self.log.read(run_id))[-1:])[0]
        assert isinstance(ending, Event)
        return ending

    async def recorded(self, asked: Any, *events: Event) -> None:
        """The next run, as the log has it."""
        beginning = Queued(agent="demo", user_id="alice", input=asked, session_id="s", memory="session")
        run_id = new_run_id()
        self.runs.append(run_id)
        await self.log.append(run_id, [beginning, started()], expected_seq=0)
        for event in events:
            await self.log.append(run_id, [event])

    async def memory(self, agent: str = "demo") -> list[dict[str, Any]]:
        """The messages with which the next run of an agent would begin."""
        queued = Queued(
            agent=agent, user_id="alice", input="next", session_id="s", memory="session",
            multitask_strategy="parallel",
        )  # fmt: skip
        run_id = new_run_id()
        await self.log.append(run_id, [queued], expected_seq=0)
        return await read_memory(self.log, run_id, await read_start(self.log, run_id))
