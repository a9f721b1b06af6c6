"""Follows an agent that runs again, beside the dialogues of its run, and answers its tools from them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from runstore.core.codec import EncodedEvent
from runstore.core.errors import AgentError
from runstore.core.events import AgentStarted, Custom, Event, Message, Place, ToolStarted
from runstore.core.folds.transcript import message_text
from runstore.core.ports import AddedMessage
from runstore.runtime.memory.resume import is_root, is_run, tool_uses
from runstore.runtime.replay.dialogues import Answer, Dialogue, RecordedCall, RecordedRun, same_form

DIFFERS = "replay_differs"  # the code of the error that ends a replay at its first difference

DifferenceKind = Literal["message", "call", "result", "tool", "ending"]


class ReplayDifference(Struct, frozen=True, kw_only=True):
    """The first difference of a replay from its run.

    `answer`: the number of the agent's answer, from 1; None: of the whole run. `seq`: the recorded event, if
    there is one. `recorded`, `came`: a message, a tool call, a result, or an ending; null: nothing.
    """

    kind: DifferenceKind
    agent: str
    call_id: str | None = None
    answer: int | None = None
    seq: int | None = None
    recorded: Any = None
    came: Any = None


class _Cursor(Struct):
    """An agent at work, and how far it has come. `dialogue`: None: the run had no such agent.

    `calls`: recorded calls that have not come yet. `differs`: a call has differed: the log answers no more.
    """

    dialogue: Dialogue | None
    answered: int = 0
    calls: list[RecordedCall] = field(default_factory=list)
    differs: bool = False

    @property
    def next(self) -> Answer | None:
        answers = self.dialogue.answers if self.dialogue is not None else []
        return answers[self.answered] if self.answered < len(answers) else None


class Follower:
    """The port `RunRecorder` of a replay: it keeps no events, and compares them with those of the run.

    Args:
        live: go on after a difference. Otherwise the first one raises, which ends the agent.
        only_calls: texts may differ, and the number of messages.
    """

    def __init__(self, run: RecordedRun, *, live: bool = False, only_calls: bool = False) -> None:
        self.live = live
        self.difference: ReplayDifference | None = None
        self.answered = 0  # tool calls that got the result of the log
        self.called = 0  # tool calls that ran for real
        self._run = run
        self._only_calls = only_calls
        self._cursors: dict[Place, _Cursor] = {}
        self._work: dict[int, _Cursor] = {}  # the number of a dialogue → the agent that has reached it
        self._visits: defaultdict[str, int] = defaultdict(int)
        self._inner: dict[Place, int | None] = {}  # an agent as a tool → its dialogue
        self._matched: dict[tuple[Place, str], RecordedCall] = {}
        self._replied: set[tuple[Place, str]] = set()

    # The agent's calls.

    async def record(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.record`.

        Raises:
            AgentError: with the code DIFFERS, at the first difference.
        """
        match event:
            case AgentStarted():
                self._begin(event)
            case Message():
                place = event.place
                if event.message.get("role") == "assistant":
                    self._answer(place, event.message)
                else:
                    self._take_results(place, event.message)
            case ToolStarted():
                self._call(event.place, event)

    async def commit(self, event: Event | Custom | EncodedEvent) -> None:
        """See `RunRecorder.commit`. Raises as `record` does."""
        await self.record(event)

    async def added(self, after: int) -> Sequence[AddedMessage]:
        """See `RunRecorder.added`: what people said in the run before the agent's next answer."""
        answered = next((each.answered for place, each in self._cursors.items() if is_run(place)), 0)
        return [
            AddedMessage(each.seq, each.content)
            for each in self._run.added
            if each.answer == answered and each.seq > after
        ]

    def next_answer(self, place: Place) -> Answer:
        """The recorded model's next answer to the agent at a place.

        Raises:
            AgentError: it has asked its model more often than in the run.
        """
        cursor = self._cursors.get(place) or _Cursor(None)
        if (answer := cursor.next) is None:
            self._differ("message", place, cursor, came="(the model is asked once more)", ahead=True)
            raise AgentError("the log has no more answers for this agent", code=DIFFERS)
        return answer

    def knows(self, place: Place, tool_use_id: str) -> bool:
        """Whether the log has this call."""
        return (place, tool_use_id) in self._matched

    def reply(
        self, place: Place, tool_use: Mapping[str, Any], *, exists: bool, is_agent: bool
    ) -> RecordedCall | None:
        """The call of the log whose result this call gets; None: the tool may run.

        Args:
            exists: the agent has the tool.
            is_agent: the tool is an agent, which runs again as its caller does.

        Raises:
            AgentError: with the code DIFFERS.
        """
        tool_use_id = tool_use["toolUseId"]
        call = self._matched.get((place, tool_use_id))
        if call is None:  # also a call that no message of a model has made
            came = {"name": tool_use["name"], "input": tool_use["input"]}
            self._differ("call", place, self._cursors.get(place), came=came)
            self.called += not is_agent
            return None
        if is_agent and call.dialogue is not None:
            return None
        if not exists and call.status == "success":
            cursor = self._cursors.get(place, _Cursor(None))
            self._differ("tool", place, cursor, recorded=call.name)
        self.answered += 1
        self._replied.add((place, tool_use_id))
        return call

    def end(self, status: str, error: str | None, result: Mapping[str, Any]) -> None:
        """Compare the end. Raises as `record` does."""
        run = self._run
        for number, dialogue in enumerate(run.dialogues):
            if dialogue.resumable and not self._is_complete(number, dialogue):
                return
        one, two = ({"status": run.status, "error": run.error}, {"status": status, "error": error})
        made = (run.result.get("structured_output"), result.get("structured_output"))
        if _code(one) != _code(two):
            self._differ("ending", Place(run.agent), None, recorded=one, came=two)
        elif not self._only_calls and same_form(made[0]) != same_form(made[1]):
            self._differ("ending", Place(run.agent), None, recorded=made[0], came=made[1])

    def _is_complete(self, number: int, dialogue: Dialogue) -> bool:
        cursor = self._work.get(number) or _Cursor(dialogue, calls=_calls(dialogue))
        left = dialogue.answers[cursor.answered :]
        if cursor.differs or not left or (self._only_calls and not cursor.calls):
            return True
        place = Place(dialogue.agent, dialogue.call_id)
        if self._only_calls:
            self._differ("call", place, cursor, recorded=_as_call(cursor.calls[0]), ahead=True)
        else:
            self._differ("message", place, cursor, recorded=_shown(left[0]), ahead=True)
        return False

    # Comparing.

    def _begin(self, event: AgentStarted) -> None:
        place = event.place
        number: int | None = None
        if not event.resumable:
            pass  # an agent within the code of a tool that runs for real
        elif event.call_id is not None:
            number = self._inner.pop(place, None)
        elif not is_root(event.agent):
            visit = self._visits[event.agent]
            self._visits[event.agent] += 1
            number = self._number_of(event.agent, visit)
        else:
            number = next((n for n, each in enumerate(self._run.dialogues) if is_run(each.place)), None)
        if number is None:
            # An agent of its own is reported with its first message.
            self._cursors[place] = _Cursor(None, differs=event.call_id is not None)
            return
        dialogue = self._run.dialogues[number]
        self._cursors[place] = self._work[number] = _Cursor(dialogue, calls=_calls(dialogue))

    def _number_of(self, path: str, visit: int) -> int | None:
        numbers = [
            n for n, each in enumerate(self._run.dialogues) if each.agent == path and each.call_id is None
        ]
        return numbers[visit] if visit < len(numbers) else None

    def _answer(self, place: Place, message: Mapping[str, Any]) -> None:
        cursor = self._cursors.setdefault(place, _Cursor(None))
        recorded = cursor.next
        cursor.answered += 1
        if cursor.differs:
            return
        came = message_text(message)
        calls = tool_uses(message)
        if not self._only_calls and (recorded is None or (recorded.text != came and not recorded.redacted)):
            shown = None if recorded is None else _shown(recorded)
            self._differ("message", place, cursor, recorded=shown, came=_answer_shown(came, calls))
        for use in calls:
            if not self._match(place, cursor, use):
                return
        if not self._only_calls and recorded is not None and len(calls) < len(recorded.calls):
            self._differ("call", place, cursor, recorded=_as_call(recorded.calls[len(calls)]))

    def _match(self, place: Place, cursor: _Cursor, use: Mapping[str, Any]) -> bool:
        key = (place, use["toolUseId"])
        self._matched.pop(key, None)  # some models use the same ids in every turn
        self._replied.discard(key)
        call = cursor.calls[0] if cursor.calls else None
        if call is None or call.name != use["name"] or same_form(call.input) != same_form(use["input"]):
            cursor.differs = True
            recorded = None if call is None else _as_call(call)
            came = {"name": use["name"], "input": use["input"]}
            self._differ("call", place, cursor, recorded=recorded, came=came)
            return False
        cursor.calls.pop(0)
        self._matched[key] = call
        self._inner[Place(f"{place.agent}/{call.name}", use["toolUseId"])] = call.dialogue
        return True

    def _call(self, place: Place, event: ToolStarted) -> None:
        """A tool is about to run. Its arguments may not be those that its model wrote."""
        if (call := self._matched.get((place, event.tool_use_id))) is None:
            return
        cursor = self._cursors[place]
        expected = [call.input if call.ran_with is None else call.ran_with]
        if call.approval:  # a replay asks no person, and a person may have changed them
            expected.append(call.input)
        came = {"name": event.name, "input": event.input}
        if all(same_form(event.input) != same_form(each) for each in expected):
            self._forget(cursor, place, event.tool_use_id)
            recorded = {"name": call.name, "input": expected[0]}
            self._differ("call", place, cursor, recorded=recorded, came=came)
        elif call.status is None and call.dialogue is None:  # the run ended while the tool ran
            self._forget(cursor, place, event.tool_use_id)
            self._differ("result", place, cursor, came=came)

    def _forget(self, cursor: _Cursor, place: Place, tool_use_id: str) -> None:
        cursor.differs = True
        self._matched.pop((place, tool_use_id), None)

    def _take_results(self, place: Place, message: Mapping[str, Any]) -> None:
        """The results of tools, as their agent's model gets them: a hook may have changed them."""
        for block in message.get("content", ()):
            result = block.get("toolResult") or {}
            key = (place, result.get("toolUseId", ""))
            if key not in self._replied:
                continue
            call = self._matched[key]
            recorded = {"name": call.name, "status": call.status, "output": call.output}
            came = {"name": call.name, "status": result.get("status"), "output": result.get("content")}
            if same_form(recorded) != same_form(came):
                self._differ("result", place, self._cursors[place], recorded=recorded, came=came)

    def _differ(
        self,
        kind: DifferenceKind,
        place: Place,
        cursor: _Cursor | None,
        *,
        recorded: Any = None,
        came: Any = None,
        ahead: bool = False,
    ) -> None:
        """Keep the first difference. `ahead`: it is about the agent's next answer, not about its last one."""
        if self.difference is None:
            answered = None if cursor is None else max(1, cursor.answered + ahead)
            answers = cursor.dialogue.answers if cursor is not None and cursor.dialogue is not None else []
            seq = answers[answered - 1].seq if answered is not None and answered <= len(answers) else None
            self.difference = ReplayDifference(
                kind=kind,
                agent=place.agent,
                call_id=place.call_id,
                answer=answered,
                seq=seq,
                recorded=recorded,
                came=came,
            )
        if not self.live:
            raise AgentError("the replay differs from its run", code=DIFFERS)


def _calls(dialogue: Dialogue) -> list[RecordedCall]:
    return [call for answer in dialogue.answers for call in answer.calls]


def _shown(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "calls": [_as_call(call) for call in answer.calls]}


def _answer_shown(text: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"text": text, "calls": [{"name": use["name"], "input": use["input"]} for use in calls]}


def _as_call(call: RecordedCall) -> dict[str, Any]:
    return {"name": call.name, "input": call.input}


def _code(ending: Mapping[str, Any]) -> tuple[Any, str]:
    """The status of a run, and the code of its error."""
    return ending["status"], (ending["error"] or "").partition(":")[0]
