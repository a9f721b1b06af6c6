"""strands' interrupts as requests for input: which of them end an attempt, and how the next one answers them.

strands raises an interrupt where its id has no response yet, and goes on where it has one. Ids are derived
from the tool use and the interrupt's name, so they are the same in a new attempt, which resumes from the
log. An interrupt belongs to the agent that raised it; its callers see it under a longer id.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import deepcopy
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec.structs import replace
from strands import Agent
from strands.agent import AgentResult as StrandsResult
from strands.hooks import BeforeNodeCallEvent, BeforeToolCallEvent
from strands.interrupt import Interrupt
from strands.multiagent.base import MultiAgentResult

from runstore.core.codec import to_json
from runstore.core.errors import AgentError
from runstore.core.events import InputRequested, Place
from runstore.core.inputs import Approval, approval_schema
from runstore.core.questions import Question, put
from runstore.core.times import now_ms
from runstore.runtime.memory.resume import Answered, Conversation
from runstore.runtime.strands.internals import (
    background_of,
    has_session_manager,
    has_task,
    interrupt_id_of,
    interrupt_state_of,
)

OF_A_CALL = "v1:agent_as_tool:"  # begins the id under which a caller sees an interrupt of its agent as a tool
OF_A_NODE = "v1:before_node_call:"
OF_A_TOOL = ("v1:before_tool_call:", "v1:tool_call:", "v1:middleware_execute_tool:")
APPROVAL = "runstore.approval."  # begins the names of the approvals that the configuration demands
REJECTED = "The call was not approved."

Use = tuple[Place, str | None]  # an agent at work, and the tool use id of its call


class Interrupts:
    """The interrupts of one attempt.

    Args:
        root: the path of the run's agent.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._raised: list[tuple[Place, Interrupt]] = []
        self._node_answers: dict[str, list[Answered]] = defaultdict(list)
        # Agents that work at once may use the same tool use ids, as models do that count from `call_0`.
        self._tools: dict[Use, tuple[str, Any]] = {}  # the tool's name, and its arguments' schema
        self._approved: dict[Use, str] = {}  # digest of the approved call

    # The answers of people.

    def remember(self, orchestrators: Iterable[Conversation]) -> None:
        """Keep the answers to the hooks of nodes, which no agent takes."""
        for conversation in orchestrators:
            for answered in conversation.answers.values():
                if answered.interrupt_id.startswith(OF_A_NODE):
                    self._node_answers[answered.interrupt_id].append(answered)

    def answer(self, agent: Agent, past: Conversation | None) -> None:
        """Give an agent the answers to the interrupts that it raised in an earlier attempt."""
        if past is None or not past.answers:
            return
        state = interrupt_state_of(agent)
        for answered in past.answers.values():
            state.interrupts[answered.interrupt_id] = _interrupt(answered)
        state.activate()  # only then does the middleware of an agent's stream look at them

    def answer_node(self, event: BeforeNodeCallEvent) -> None:
        """Give a Graph or Swarm the answers to the hooks of a node; each visit takes one of each."""
        prefix = f"{OF_A_NODE}{uuid.uuid5(uuid.NAMESPACE_OID, event.node_id)}:"
        interrupts = interrupt_state_of(event.source).interrupts
        for interrupt_id in [each for each in interrupts if each.startswith(prefix)]:
            del interrupts[interrupt_id]
        for interrupt_id, answers in self._node_answers.items():
            if interrupt_id.startswith(prefix) and answers:
                interrupts[interrupt_id] = _interrupt(answers.pop(0))

    def responses(self, agent: Agent, given: Iterable[Answered]) -> list[Any]:
        """The input that continues an agent whose own session manager keeps its state.

        Raises:
            AgentError: its session does not know the interrupts that were answered.
        """
        answers = {answered.interrupt_id: answered.answer for answered in given}
        if not answers.keys() >= interrupt_state_of(agent).interrupts.keys() or not kept_by_session(agent):
            raise AgentError(
                "the answers came, but the agent's session does not have the interrupts that they are for: "
                "each attempt must build the agent with the same session, in a store that all workers share",
                code="interrupted",
            )
        return [
            {"interruptResponse": {"interruptId": interrupt_id, "response": answer}}
            for interrupt_id, answer in answers.items()
            if interrupt_id in interrupt_state_of(agent).interrupts
        ]

    # Approvals that the configuration demands.

    def approve(self, place: Place, event: BeforeToolCallEvent) -> None:
        """Ask for the approval of a tool's call, or act on the answer. It covers exactly this call.

        Raises:
            InterruptException: there is no answer yet.
        """
        tool_use = event.tool_use
        answer = event.interrupt(
            APPROVAL + call_digest(tool_use),
            reason=deepcopy({"name": tool_use["name"], "input": tool_use["input"]}),
        )
        approval = _approval(answer)
        if not approval.approve:
            event.cancel_tool = f"{REJECTED} {approval.reason}".strip()
            return
        if isinstance(answer, dict) and "input" in answer:
            event.tool_use = {**tool_use, "input": approval.input}
        self._approved[place, tool_use["toolUseId"]] = call_digest(event.tool_use)

    def is_judged(self, event: BeforeToolCallEvent) -> bool:
        """Whether a person has judged a call, even if the configuration demands no approval any more."""
        known = interrupt_state_of(event.agent).interrupts
        return bool(known) and interrupt_id_of(event, APPROVAL + call_digest(event.tool_use)) in known

    def is_changed(self, place: Place, tool_use: Mapping[str, Any]) -> bool:
        """Whether a call that is about to run differs from the approved one."""
        approved = self._approved.get((place, tool_use["toolUseId"]))
        return approved is not None and approved != call_digest(tool_use)

    # The requests that end an attempt.

    def look_at(self, place: Place, event: BeforeToolCallEvent) -> bool:
        """Note a tool that is about to run. Returns whether a hook has asked before it may."""
        tool_use, tool = event.tool_use, event.selected_tool
        self._approved.pop((place, tool_use["toolUseId"]), None)  # an earlier turn may have used the id
        schema = tool.tool_spec.get("inputSchema", {}).get("json") if tool is not None else None
        self._tools[place, tool_use["toolUseId"]] = (tool_use["name"], schema)
        prefix = f"{OF_A_TOOL[0]}{tool_use['toolUseId']}:"
        state = interrupt_state_of(event.agent)
        return any(each.response is None for id, each in state.interrupts.items() if id.startswith(prefix))

    def note(self, place: Place, result: Any) -> None:
        """An agent's invocation ended with this result."""
        if getattr(result, "stop_reason", None) == "interrupt":
            self._raised += [(place, each) for each in result.interrupts or ()]

    def requests(self, ended: StrandsResult | MultiAgentResult | None) -> list[InputRequested]:
        """The requests for input that the attempt ends with."""
        if isinstance(ended, StrandsResult):
            interrupts = list(ended.interrupts or ()) if ended.stop_reason == "interrupt" else []
        else:
            interrupts = list(ended.interrupts) if ended is not None else []
        return [self._request(each) for each in interrupts]

    def _request(self, interrupt: Interrupt) -> InputRequested:
        place, own = self._origin(interrupt)
        use_id = _tool_use_of(own.id)
        name, schema = self._tools.get((place, use_id), (None, None)) if use_id else (None, None)
        request = InputRequested(
            agent=place.agent, call_id=place.call_id, request_id="", name=own.name, interrupt_id=own.id,
            prompt=own.name, tool_use_id=use_id, tool=name,
        )  # fmt: skip
        return _described(request, own.reason, schema)

    def _origin(self, interrupt: Interrupt) -> tuple[Place, Interrupt]:
        """The agent that raised an interrupt, and the interrupt as it raised it.

        Agents that work at once may raise interrupts with equal ids. The agent in question is the one that
        reported this interrupt, or works below it.
        """
        top = next((place for place, each in self._raised if each is interrupt), Place(self._root))
        call_id, interrupt_id = top.call_id, interrupt.id
        while interrupt_id.startswith(OF_A_CALL):
            use_id, _, interrupt_id = interrupt_id.removeprefix(OF_A_CALL).partition(":")
            call_id = unquote(use_id)
        for place, own in self._raised:
            below = f"{place.agent}/".startswith(f"{top.agent}/")
            if below and (place.call_id, own.id) == (call_id, interrupt_id):
                return place, own
        return Place(self._root, call_id), interrupt


def kept_by_session(agent: Any) -> bool:
    """Whether an agent's own session manager keeps its open interrupts, with what it was doing."""
    return has_session_manager(agent) and bool(interrupt_state_of(agent).activated)


def is_of_background(request: InputRequested, agents: Iterable[Any]) -> bool:
    """Whether a request comes from a tool's task in the background of one of these agents."""
    background = [found for agent in agents if (found := background_of(agent)) is not None]
    return any(has_task(each, request.tool_use_id) for each in background)


def call_digest(tool_use: Mapping[str, Any]) -> str:
    """A digest of a tool's name and arguments."""
    return sha256(to_json([tool_use["name"], tool_use["input"]])).hexdigest()[:32]


def _tool_use_of(interrupt_id: str) -> str | None:
    """The tool use id of the call that an interrupt is about."""
    for prefix in OF_A_TOOL:
        if interrupt_id.startswith(prefix):
            return interrupt_id.removeprefix(prefix).rpartition(":")[0]
    return None


def _described(request: InputRequested, reason: Any, schema: Any) -> InputRequested:
    """A request, as the reason of its interrupt describes it. `schema`: of the tool's arguments."""
    if (request.name or "").startswith(APPROVAL):
        name, arguments = reason["name"], reason["input"]
        return replace(
            request, kind="approval", prompt=f"May {request.agent} call {name}?", tool=name, input=arguments,
            schema=approval_schema(schema), name=None,
        )  # fmt: skip
    if isinstance(reason, Question):
        return put(reason, request, now_ms())
    if isinstance(reason, str):
        return replace(request, prompt=reason or request.prompt)
    return replace(request, data=reason)


def _approval(answer: Any) -> Approval:
    try:
        return msgspec.convert(answer, Approval)
    except msgspec.ValidationError as error:
        raise AgentError(f"the answer to an approval is malformed: {error}") from error


def _interrupt(answered: Answered) -> Interrupt:
    return Interrupt(answered.interrupt_id, answered.name, response=answered.answer)
