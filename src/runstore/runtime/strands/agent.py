"""A strands agent, Graph or Swarm as an agent of a run."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, MutableSet, Sequence, Set
from contextlib import suppress
from typing import Any

from strands import Agent
from strands.agent import AgentResult as StrandsResult
from strands.handlers import PrintingCallbackHandler, null_callback_handler
from strands.multiagent.base import MultiAgentBase, MultiAgentResult
from strands.types.content import SystemContentBlock
from strands.types.exceptions import MaxTokensReachedException

import runstore.runtime.strands.recorders.nodes as strands_nodes
from runstore.core.codec import RecordedEvent
from runstore.core.content import asked_messages, input_messages
from runstore.core.errors import AgentError, AppendRefused, RunstoreError
from runstore.core.events import AgentFinished, AgentStarted, InputRequested
from runstore.core.ports import AgentResult, Asked, RunContext, RunRecorder
from runstore.runtime.holders import HELD
from runstore.runtime.memory.at_most_once import obstacle
from runstore.runtime.memory.held import bare
from runstore.runtime.memory.pins import is_pinned
from runstore.runtime.memory.request_references import Requests
from runstore.runtime.memory.resume import Memory, recall
from runstore.runtime.replay.follower import Follower
from runstore.runtime.strands import patches
from runstore.runtime.strands.errors import agent_error, unwrapped
from runstore.runtime.strands.hierarchy import agents_of
from runstore.runtime.strands.internals import answers_object, has_session_manager, note_first_pins
from runstore.runtime.strands.providers import has_providers
from runstore.runtime.strands.recorders.closable_recorder import ClosableRecorder
from runstore.runtime.strands.recorders.hooks import Hooks
from runstore.runtime.strands.recorders.interrupts import is_of_background, kept_by_session
from runstore.runtime.strands.recorders.invocations import STATE_KEY
from runstore.runtime.strands.recorders.model_calls import ModelCalls
from runstore.runtime.strands.recorders.nodes import nodes_of
from runstore.runtime.strands.recorders.recording import Recording
from runstore.runtime.strands.recorders.replies import Replies
from runstore.runtime.strands.results import cut_result, result_of
from runstore.runtime.strands.stream.redaction import may_redact, may_redact_last
from runstore.runtime.strands.stream.repair import BROKEN_OFF
from runstore.runtime.user_code import in_a_line

UNWIND_S = 0.1  # seconds for abandoned agents to end by themselves before their tools are cancelled
PRODUCTS = (Agent, MultiAgentBase)
CANNOT_WAIT = (
    "With a session manager, only the run's own agent can wait; not a called agent, a Graph or a Swarm. "
    "A product of a class of its own cannot wait either."
)
Product = Agent | MultiAgentBase
Ended = StrandsResult | MultiAgentResult | None

patches.apply()  # at the import, which a factory's call awaits: the agents that it makes need the patches


class StrandsAgent:
    """Drives a configured or factory-built product through strands' own loop, and records its events.

    An `Agent` resumes from its messages and finished tools, including its agents as tools. So do the nodes of
    a Graph or Swarm, each visit by itself. A product with a strands session manager restarts from the input.

    Args:
        taken: every agent that was given to a run. Agents keep messages and hooks, so each run needs its own.
        root: the path of the outermost agent; None: the name of the run's agent.
        at_most_once: names of tools that the configuration marks so.
        approve: names of tools whose calls a person has to approve.
        record_requests: record what the models are asked.

    Raises:
        AgentError: an agent of the hierarchy belongs to another run.
    """

    def __init__(
        self,
        product: Product,
        context: RunContext,
        taken: MutableSet[Any],
        *,
        root: str | None = None,
        at_most_once: Set[str] = frozenset(),
        approve: Set[str] = frozenset(),
        record_requests: bool = True,
    ) -> None:
        self._product = product
        self._context = context
        self._root = root or context.agent_name
        self._at_most_once = at_most_once
        self._approve = approve
        self._records_requests = record_requests
        self._stop_requested = False
        self._agents = list(agents_of(product, self._root))
        for _, agent in self._agents:
            if agent in taken:
                raise AgentError(
                    f"the factory of agent {context.agent_name!r} returned an Agent ({agent.name!r}) that "
                    "another run has: the factory must build a new Agent for each run"
                )
        held = HELD.get()
        for _, agent in self._agents:
            taken.add(agent)
            if held is not None and has_providers(agent):
                held.own(agent.tool_registry)
            if isinstance(agent.callback_handler, PrintingCallbackHandler):
                agent.callback_handler = null_callback_handler
        self._hooks: Hooks | None = None
        self._replies: Replies | None = None

    def answer_from(self, follower: Follower) -> None:
        """Answer its tool calls from the log of the run that `follower` follows.

        Raises:
            AgentError: it keeps its conversation outside of the log, or not all of its agents are strands'.
        """
        if self._keeps_sessions() or not strands_nodes.goes_on(self._product):
            raise AgentError(
                "a product with a strands session manager or of a class of its own has no replays"
            )
        if not strands_nodes.runs_only_agents(self._product):
            raise AgentError("a node that is a remote agent, or of a class of its own, has no replays")
        self._replies = Replies(follower)

    @property
    def agents(self) -> list[tuple[str, Agent]]:
        """Its agents that exist before it runs, each with its path."""
        return self._agents

    async def run(
        self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder
    ) -> AgentResult | Asked:
        """See `Agent.run`."""
        closable = ClosableRecorder(recorder, self._leave)
        goes_on = strands_nodes.goes_on(self._product)
        if not goes_on and (failed := obstacle(history, repeats=True)):
            raise AgentError(failed.message, code=failed.code)
        model_requests = Requests(self._context, input, history, off=not self._records_requests)
        hooks = self._hooks = self._hook(closable, recall(history), model_requests, goes_on)
        await recorder.record(self._beginning())
        try:
            stream = self._stream(input, hooks)
            try:
                ended = await self._attend(self._follow(stream, hooks, closable), closable)
            finally:
                await _record_unfinished(hooks.model_calls, recorder)
            if requests := hooks.interrupts.requests(ended):
                self._check_resumable(requests, goes_on)
                return Asked(requests)
            conversations = [agent.messages for _, agent in self._agents]
            result = result_of(ended, hooks.model_calls.errors, conversations)
        except Exception as error:
            if (cut := self._cut_result(error)) is not None:
                await recorder.record(AgentFinished(agent=self._root))
                return hooks.result(cut)
            failure = _failure(error, hooks.model_calls, closable)
            if isinstance(failure, AgentError):
                await self._finish(hooks, recorder)
            raise failure from (None if failure is error else error)
        await self._finish(hooks, recorder)
        return hooks.result(result)

    async def _finish(self, hooks: Hooks, recorder: RunRecorder) -> None:
        """Take back the text that does not count, and record the end of the agent."""
        for event in hooks.recording.answers.end_all():
            await recorder.commit(event)
        await recorder.record(AgentFinished(agent=self._root))

    @property
    def tool_names(self) -> list[str]:
        """The names of all its agents' tools."""
        return sorted({name for _, agent in self._agents for name in agent.tool_names})

    def _check_resumable(self, requests: Sequence[InputRequested], goes_on: bool) -> None:
        agents = self._hooks.agents if self._hooks else ()
        if asks_behind := [each for each in requests if is_of_background(each, agents)]:
            names = ", ".join(request.name or request.prompt for request in asks_behind)
            raise AgentError(
                f"middleware asks for a person's answer (interrupt {names}) while a tool runs in the "
                "background, which cannot wait: strands keeps such a task in memory only",
                code="interrupted",
            )
        own = kept_by_session(self._product) and all(request.call_id is None for request in requests)
        if (self._keeps_sessions() and not own) or not goes_on:
            names = ", ".join(request.name or request.prompt for request in requests)
            raise AgentError(
                f"the agent asks for a person's answer (interrupt {names}), which it cannot get. "
                + CANNOT_WAIT,
                code="interrupted",
            )

    def _keeps_sessions(self) -> bool:
        return any(has_session_manager(agent) for _, agent in self._agents)

    def _beginning(self) -> AgentStarted:
        return AgentStarted(
            agent=self._root,
            structured_output=answers_object(self._product),
            redacts=any(may_redact(agent) for _, agent in self._agents),
            redacts_last=isinstance(self._product, Agent) and may_redact_last(self._product),
        )

    def _cut_result(self, error: Exception) -> dict[str, Any] | None:
        """The result of an agent whose answer its model's token limit has cut; the run does not fail."""
        if not isinstance(self._product, Agent) or not isinstance(
            unwrapped(error), MaxTokensReachedException
        ):
            return None
        last = self._product.messages[-1] if self._product.messages else None
        return cut_result(last if last and last["role"] == "assistant" else None)

    def cancel(self) -> None:
        """See `Agent.cancel`. strands checks at the model's next chunk and before each tool."""
        self._stop_requested = True
        if self._hooks is not None:
            self._hooks.recording.answers.stopping = True
        # Cancel each agent directly, including those made for a call: strands passes a cancel down by
        # polling, 50 ms a level.
        for agent in self._hooks.agents if self._hooks else [agent for _, agent in self._agents]:
            agent.cancel()

    def _hook(self, closable: ClosableRecorder, memory: Memory, requests: Requests, goes_on: bool) -> Hooks:
        nodes = list(nodes_of(self._product, self._root))
        memory = memory if goes_on else Memory(usage=memory.usage)
        recording = Recording(self._context, closable, memory, requests, remembering=goes_on)
        recording.answers.stopping = self._stop_requested
        hooks = Hooks(
            recording, at_most_once=self._at_most_once, approve=self._approve, nodes=nodes,
            replies=self._replies,
        )  # fmt: skip
        for path, agent in self._agents:
            hooks.install(agent, path)
        for node in nodes:
            hooks.nodes.listen(node, hooks.called.translator(node.path))
        return hooks

    def _stream(self, input: Any, hooks: Hooks) -> AsyncIterator[Any]:
        messages: list[Any] = input_messages(input)
        state = {STATE_KEY: self._context}
        if isinstance(self._product, Agent):
            _instruct(self._product, [message for message in messages if message["role"] == "system"])
            own = _remind(self._product, self._context.memory)
            answers = hooks.invocations.expect(self._product, asked_messages(input), own)
            # A second copy, as hooks may rewrite the messages in place.
            prompt: list[Any] = answers or asked_messages(input)
            return self._product.stream_async(prompt, invocation_state=state)
        if len(messages) != 1:
            raise AgentError(
                "the input of a Graph or Swarm must be text or a list of content blocks", code="invalid_input"
            )
        return self._product.stream_async(input if isinstance(input, str) else messages[0]["content"], state)

    async def _follow(self, stream: AsyncIterator[Any], hooks: Hooks, closable: ClosableRecorder) -> Ended:
        translator = hooks.called.translator(self._root, apart=hooks.nodes.paths)
        ended: Ended = None
        async for item in stream:
            if closable.closed_by is not None:
                self._go_on_leaving()
                continue
            if "delta" in item:
                continue  # half of all items; none holds an event
            try:
                await hooks.recording.record(translator.translate(item))
            except Exception as error:
                closable.close(error)
            except asyncio.CancelledError:
                self._leave()
            if "result" in item and isinstance(item["result"], StrandsResult | MultiAgentResult):
                ended = item["result"]
        if translator.broken_off and isinstance(ended, StrandsResult) and ended.stop_reason == "end_turn":
            raise AgentError(BROKEN_OFF, code="model_unavailable")
        return ended

    # An abandoned stream is not dropped, nor its task cancelled at once. Of strands' nested generators this
    # would end only the outermost and leave the others, with their tools and tracing spans, to the garbage
    # collector. Instead the agents are asked to stop, and their remaining items are discarded. After
    # UNWIND_S the task is cancelled where it waits, for a tool or a model.

    async def _attend(self, following: Coroutine[Any, Any, Ended], closable: ClosableRecorder) -> Ended:
        """Wait until the stream has been followed to its end; abandon it when this task is cancelled."""
        self._task = task = asyncio.create_task(_contained(following))
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                if closable.closed_by is not None:
                    task.cancel()
                cancelled = error
                closable.close(AgentError("the run was left"))
        failure = None if task.cancelled() else task.exception()
        if reason := cancelled or closable.closed_by or failure:
            raise reason
        if task.cancelled():
            raise AgentError("a tool or hook cancelled the agent that it works for")
        return task.result()

    def _leave(self) -> None:
        task, loop = self._task, self._task.get_loop()
        delay = 0 if self._stop_requested else UNWIND_S
        self.cancel()
        loop.call_soon_threadsafe(lambda: loop.call_later(delay, task.cancel))

    def _go_on_leaving(self) -> None:
        if self._task.cancelling():
            self._task.cancel()  # again: before Python 3.12, asyncio.wait_for may swallow one


def _failure(error: Exception, calls: ModelCalls, closable: ClosableRecorder) -> RunstoreError:
    """The error with which the agent's work ends, without any quotes of providers."""
    failure = agent_error(error, calls.errors)
    text = calls.words.replaced(str(failure))  # failures of models are fixed sentences already
    if isinstance(failure, AgentError) and text != str(failure):
        return AgentError(text, code=failure.code)
    if isinstance(failure, AppendRefused) and failure is not closable.closed_by:  # raised for another run
        return AgentError(str(failure), code=failure.code)
    return failure


async def _record_unfinished(calls: ModelCalls, recorder: RunRecorder) -> None:
    """Record the model calls that broke off, unless the run is no longer this attempt's."""
    with suppress(AppendRefused):
        for usage in calls.unfinished():
            await recorder.record(usage)


def _instruct(agent: Agent, messages: Sequence[Any]) -> None:
    """Append a conversation's system messages to the agent's own instructions."""
    if messages:
        own = agent.system_prompt_content or []
        instructions = [block for message in messages for block in message["content"] if "text" in block]
        agent.system_prompt = [*own, *(SystemContentBlock(text=block["text"]) for block in instructions)]


def _remind(agent: Agent, memory: Sequence[Any]) -> int:
    """Start the agent with its session's memory, as far as its conversation manager keeps it.

    Returns the number of the agent's own messages before it. A factory may have built the agent with the
    memory.
    """
    own = list(agent.messages)
    if not memory or has_session_manager(agent):
        return len(own)
    if list(map(bare, own[-len(memory) :])) == list(map(bare, memory)):
        del own[-len(memory) :]
    else:
        agent.messages.extend(memory)
    if is_pinned(memory[0]):
        note_first_pins(agent, own)
    agent.conversation_manager.apply_management(agent)
    return sum(any(message is one for one in own) for message in agent.messages)


async def _contained(following: Coroutine[Any, Any, Ended]) -> Ended:
    try:
        return await following
    except (Exception, asyncio.CancelledError):
        raise
    # From a model or a hook; a SystemExit would end the loop that all agents share.
    except BaseException as error:
        raise AgentError(in_a_line(error)) from error
