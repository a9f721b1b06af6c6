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
from runstore.core.events import InputRequested
from runstore.core.inputs import Approval, approval_schema
from runstore.core.questions import Question, put
from runstore.core.times import now_ms
from runstore.runtime.memory.resume import Answered, Conversation, Place

OF_A_CALL = "v1:agent_as_tool:"  # begins the id under which a caller sees an interrupt of its agent as a tool
OF_A_NODE = "v1:before_node_call:"
OF_A_TOOL = ("v1:before_tool_call:", "v1:tool_call:", "v1:middleware_execute_tool:")
APPROVAL = "runstore.approval."  # begins the names of the approvals that the configuration demands
REJECTED = "The call was not approved."


class Interrupts:
    """The interrupts of one attempt.

    Args:
        root: the path of the run's agent.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._raised: list[tuple[Place, Interrupt]] = []
        self._node_answers: dict[str, list[Answered]] = defaultdict(list)
        self._tools: dict[str, tuple[str, Any]] = {}  # tool use id → its name, and its arguments' schema
        self._approved: dict[str, str] = {}  # tool use id → digest of the approved call

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
        state = agent._interrupt_state
        for answered in past.answers.values():
            state.interrupts[answered.interrupt_id] = _interrupt(answered)
        state.activate()  # only then does the middleware of an agent's stream look at them

    def answer_node(self, event: BeforeNodeCallEvent) -> None:
        """Give a Graph or Swarm the answers to the hooks of a node; each visit takes one of each."""
        prefix = f"{OF_A_NODE}{uuid.uuid5(uuid.NAMESPACE_OID, event.node_id)}:"
        interrupts = event.source._interrupt_state.interrupts  # type: ignore[attr-defined]
        for interrupt_id in [each for each in interrupts if each.startswith(prefix)]:
            del interrupts[interrupt_id]
        for interrupt_id, answers in self._node_answers.items():
            if interrupt_id.startswith(prefix) and answers:
                interrupts[interrupt_id] = _interrupt(answers.pop(0))

    # Approvals that the configuration demands.

    def approve(self, event: BeforeToolCallEvent) -> None:
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
        self._approved[tool_use["toolUseId"]] = call_digest(event.tool_use)

    def is_changed(self, tool_use: Mapping[str, Any]) -> bool:
        """Whether a call that is about to run differs from the approved one."""
        approved = self._approved.get(tool_use["toolUseId"])
        return approved is not None and approved != call_digest(tool_use)

    # The requests that end an attempt.

    def look_at(self, event: BeforeToolCallEvent) -> bool:
        """Note a tool that is about to run. Returns whether a hook has asked before it may."""
        tool_use, tool = event.tool_use, event.selected_tool
        schema = tool.tool_spec.get("inputSchema", {}).get("json") if tool is not None else None
        self._tools[tool_use["toolUseId"]] = (tool_use["name"], schema)
        prefix = f"{OF_A_TOOL[0]}{tool_use['toolUseId']}:"
        state = event.agent._interrupt_state
        return any(each.response is None for id, each in state.interrupts.items() if id.startswith(prefix))

    def note(self, place: Place, result: Any) -> None:
        """An agent's invocation ended with this result."""
        if getattr(result, "stop_reason", None) == "interrupt":
            own = [each for each in result.interrupts or () if not each.id.startswith(OF_A_CALL)]
            self._raised += [(place, each) for each in own]

    def requests(self, ended: StrandsResult | MultiAgentResult | None) -> list[InputRequested]:
        """The requests for input that the attempt ends with."""
        if isinstance(ended, StrandsResult):
            interrupts = list(ended.interrupts or ()) if ended.stop_reason == "interrupt" else []
        else:
            interrupts = list(ended.interrupts) if ended is not None else []
        return [self._request(each) for each in interrupts]

    def _request(self, interrupt: Interrupt) -> InputRequested:
        place, own = self._origin(interrupt)
        request = InputRequested(
            agent=place[0], call_id=place[1], request_id="", name=own.name, interrupt_id=own.id,
            prompt=own.name, **self._tool_of(own.id),
        )  # fmt: skip
        return _described(request, own.reason, dict(self._tools.values()))

    def _origin(self, interrupt: Interrupt) -> tuple[Place, Interrupt]:
        """The agent that raised an interrupt, and the interrupt as it raised it."""
        call_id, interrupt_id = None, interrupt.id
        while interrupt_id.startswith(OF_A_CALL):
            use_id, _, interrupt_id = interrupt_id.removeprefix(OF_A_CALL).partition(":")
            call_id = unquote(use_id)
        alike = [(place, own) for place, own in self._raised if (place[1], own.id) == (call_id, interrupt_id)]
        for place, own in alike:
            if own is interrupt:
                return place, own
        return alike[0] if alike else ((self._root, call_id), interrupt)

    def _tool_of(self, interrupt_id: str) -> dict[str, Any]:
        """The tool call that an interrupt is about."""
        for prefix in OF_A_TOOL:
            if interrupt_id.startswith(prefix):
                use_id = interrupt_id.removeprefix(prefix).rpartition(":")[0]
                name, _ = self._tools.get(use_id, (None, None))
                return {"tool_use_id": use_id, "tool": name}
        return {}


def call_digest(tool_use: Mapping[str, Any]) -> str:
    """A digest of a tool's name and arguments."""
    return sha256(to_json([tool_use["name"], tool_use["input"]])).hexdigest()[:32]


def _described(request: InputRequested, reason: Any, schemas: Mapping[str, Any]) -> InputRequested:
    """A request, as the reason of its interrupt describes it."""
    if (request.name or "").startswith(APPROVAL):
        name, arguments = reason["name"], reason["input"]
        return replace(
            request, kind="approval", prompt=f"May {request.agent} call {name}?", tool=name, input=arguments,
            schema=approval_schema(schemas.get(name)), name=None,
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
