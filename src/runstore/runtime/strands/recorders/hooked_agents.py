"""The agents of a run that have its hooks: where each works, and which model it calls."""

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from strands import Agent

from runstore.core.events import Place
from runstore.runtime.strands.hierarchy import call_of
from runstore.runtime.strands.stream.end_reasons import keep_reasons
from runstore.runtime.strands.stream.first_pieces import keep_first_pieces
from runstore.runtime.strands.stream.servers.mended import mend_answers
from runstore.runtime.strands.stream.servers.reported_usage import report_reasoning


class HookedAgents:
    """The hooked agents of one run. Weak: some work for one call only."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}  # path → model id
        self._homes: WeakKeyDictionary[Agent, str] = WeakKeyDictionary()

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._homes)

    def __contains__(self, agent: Agent) -> bool:
        return agent in self._homes

    def add(self, agent: Agent, path: str) -> None:
        """Add an agent. `path`: its place outside of tool calls."""
        self._homes[agent] = path

    def place(self, agent: Agent) -> Place:
        """The place where an agent currently works."""
        call = call_of(agent)
        return call.place if call else Place(self._homes[agent])

    def dropped(self, agent: Agent) -> bool:
        """Whether the garbage collector closes an agent, whose run has been dropped with it."""
        return call_of(agent) is None and agent not in self._homes

    def note_model(self, path: str, model: Any) -> None:
        """Remember the model of the agent at this path."""
        report_reasoning(model)
        keep_reasons(model)
        keep_first_pieces(model)
        mend_answers(model)
        config = model.get_config()
        if isinstance(config, dict) and config.get("model_id"):
            self.models[path] = str(config["model_id"])
