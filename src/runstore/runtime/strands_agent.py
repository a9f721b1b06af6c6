"""A strands agent, Graph or Swarm as an agent of a run."""

from collections.abc import AsyncIterator, MutableSet, Sequence
from contextlib import aclosing
from typing import Any

from strands import Agent
from strands.agent import AgentResult as StrandsResult
from strands.handlers import PrintingCallbackHandler, null_callback_handler
from strands.multiagent.base import MultiAgentBase, MultiAgentResult

from runstore.core.codec import RecordedEvent
from runstore.core.errors import AgentError
from runstore.core.events import AgentFinished, AgentStarted, Message, Token, Usage
from runstore.core.ports import AgentResult, RunContext, RunRecorder
from runstore.core.run import add_usage
from runstore.runtime.resume import Memory, input_messages, recall
from runstore.runtime.strands_errors import agent_error
from runstore.runtime.strands_events import Translator
from runstore.runtime.strands_hierarchy import agents_of
from runstore.runtime.strands_hooks import STATE_KEY, Hooks
from runstore.runtime.strands_results import result_of

PRODUCTS = (Agent, MultiAgentBase)
Product = Agent | MultiAgentBase


class StrandsAgent:
    """Drives what a configuration or a factory built, through strands' own loop, and records what it says.

    An `Agent` is resumed from its messages and finished tools, together with its agents as tools; a Graph or
    Swarm starts again from the input, and so does an agent with a strands session manager.

    Args:
        taken: every agent that has been given to a run; they keep their messages and hooks, so each run
            needs its own.

    Raises:
        AgentError: an agent of the hierarchy is another run's.
    """

    def __init__(self, product: Product, context: RunContext, taken: MutableSet[Any]) -> None:
        self._product = product
        self._context = context
        self._agents = list(agents_of(product, context.agent_name))
        for _, agent in self._agents:
            if agent in taken:
                raise AgentError(
                    f"the factory of agent {context.agent_name!r} returned an Agent ({agent.name!r}) that "
                    "another run has: the factory must build a new Agent for each run"
                )
        for _, agent in self._agents:
            taken.add(agent)
            if isinstance(agent.callback_handler, PrintingCallbackHandler):
                agent.callback_handler = null_callback_handler

    async def run(self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder) -> AgentResult:
        """See `Agent.run`."""
        root, memory = self._context.agent_name, recall(history)
        hooks = self._hooks(recorder, memory)
        await recorder.record(AgentStarted(agent=root))
        try:
            stream = self._stream(input_messages(input))
            ended, usage = await self._follow(stream, hooks, recorder, memory.usage)
            if hooks.refusal is not None:
                raise hooks.refusal
            result = result_of(ended, hooks.model_error)
        except Exception as error:
            failure = hooks.refusal or agent_error(error, hooks.model_error)
            if isinstance(failure, AgentError):
                await recorder.record(AgentFinished(agent=root))
            raise failure from (None if failure is error else error)
        await recorder.record(AgentFinished(agent=root))
        return AgentResult(result=result, usage=usage)

    def cancel(self) -> None:
        """See `Agent.cancel`. strands looks at the next chunk of a model and before each tool."""
        for _, agent in self._agents:
            agent.cancel()

    def _hooks(self, recorder: RunRecorder, memory: Memory) -> Hooks:
        alone = isinstance(self._product, Agent)
        hooks = Hooks(self._context, recorder, memory if alone else Memory(), remembering=alone)
        for path, agent in self._agents:
            hooks.install(agent, path)
        return hooks

    def _stream(self, messages: list[Any]) -> AsyncIterator[Any]:
        state = {STATE_KEY: self._context}
        if isinstance(self._product, Agent):
            return self._product.stream_async(messages, invocation_state=state)
        if len(messages) != 1:
            raise AgentError(
                "the input of a Graph or Swarm must be text or a list of content blocks", code="invalid_input"
            )
        return self._product.stream_async(messages[0]["content"], state)

    async def _follow(
        self, stream: Any, hooks: Hooks, recorder: RunRecorder, usage: dict[str, int]
    ) -> tuple[StrandsResult | MultiAgentResult | None, dict[str, int]]:
        translate = Translator(self._context.agent_name, hooks.models).translate
        record, ended = recorder.record, None
        async with aclosing(stream) as items:
            async for item in items:
                for event in translate(item):
                    kind = type(event)
                    if kind is not Token:
                        if isinstance(event, Usage):
                            usage = add_usage(usage, event)
                        elif isinstance(event, Message) and event.agent in hooks.remembered:
                            continue  # the hooks have written it
                    await record(event)
                if "result" in item and isinstance(item["result"], StrandsResult | MultiAgentResult):
                    ended = item["result"]
        return ended, usage
