"""Compares two runs message by message."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

from msgspec import Struct

from runstore.core.errors import TooLarge
from runstore.core.folds.comparison import opcodes
from runstore.core.folds.transcript import message_text
from runstore.runtime.replay.dialogues import Answer, Dialogue, RecordedRun, same_form

MAX_LINES = 5_000  # lines of each run

Kind = Literal["model", "system", "user", "reasoning", "assistant", "call", "result", "ending"]
END = ("(end)", 0)  # the key of a run's ending; no path has brackets
Mark = Literal["=", "-", "+"]


class Line(Struct, frozen=True, kw_only=True):
    """One thing that was said in a run. `agent`: its path; a call's agent is the one that called the tool.

    `name`: of the tool. `content`: text, a tool's arguments, or the blocks of its result.
    """

    agent: str
    kind: Kind
    content: Any
    name: str | None = None


class DiffLine(Struct, frozen=True, kw_only=True):
    """A line of two runs. `mark`: it is in both (`=`), in the first alone (`-`), or in the second (`+`)."""

    mark: Mark
    agent: str
    kind: Kind
    content: Any
    name: str | None = None


def run_diff(first: RecordedRun, second: RecordedRun) -> list[DiffLine]:
    """The lines of two runs, agent by agent, in the order in which agents began.

    The n-th dialogues of the same agent are compared, so the order of agents that work at once does not
    count. Equal models and system prompts are left out.

    Raises:
        TooLarge: a run has more than MAX_LINES lines.
    """
    one, two = _parts(first), _parts(second)
    for run, parts in ((first, one), (second, two)):
        if (lines := sum(map(len, parts.values()))) > MAX_LINES:
            raise TooLarge(
                "diff_lines", f"run {run.run_id} has {lines:,} lines to compare; the limit is {MAX_LINES:,}"
            )
    found: list[DiffLine] = []
    for key in sorted(dict.fromkeys([*one, *two]), key=lambda key: key == END):
        found += _compared(one.get(key, []), two.get(key, []))
    return found


def _parts(run: RecordedRun) -> dict[tuple[str, int], list[Line]]:
    """The lines of each dialogue, by its agent and its number among those of the agent."""
    parts: dict[tuple[str, int], list[Line]] = {}
    counts: dict[str, int] = {}
    root = run.root
    if root is None:
        parts["", 0] = [Line(agent="", kind="user", content=run.input)]
    for dialogue in run.dialogues:
        number = counts[dialogue.agent] = counts.get(dialogue.agent, 0) + 1
        if lines := list(_of_dialogue(dialogue, run if dialogue is root else None)):
            # Without the name of the run's agent, which may differ in two runs.
            parts[_below(dialogue.agent), number] = lines
    ended = run.status or "not ended"
    ending = ended if run.error is None else f"{ended}: {run.error}"
    parts[END] = [Line(agent=run.agent, kind="ending", content=ending)]
    if (made := run.result.get("structured_output")) is not None:
        parts[END].insert(0, Line(agent=run.agent, kind="result", content=made))
    return parts


def _below(path: str) -> str:
    return path.partition("/")[2]


def _of_dialogue(dialogue: Dialogue, run: RecordedRun | None) -> Iterator[Line]:
    """The lines of an agent. `run`: its input and added messages belong to the run's own agent."""
    line = partial(Line, agent=dialogue.agent)
    if dialogue.model is not None:
        yield line(kind="model", content=dialogue.model)
    if dialogue.system is not None:
        yield line(kind="system", content=dialogue.system)
    if run is not None:
        yield line(kind="user", content=run.input)
    for number, answer in enumerate(dialogue.answers):
        for heard in answer.heard:
            yield line(kind="user", content=message_text(heard) or heard.get("content"))
        for added in run.added if run is not None else ():
            if added.answer == number:
                yield line(kind="user", content=added.content)
        yield from _of_answer(answer, dialogue.agent)


def _of_answer(answer: Answer, agent: str) -> Iterator[Line]:
    line = partial(Line, agent=agent)
    if answer.redacted:
        yield line(kind="assistant", content="(redacted)")
    if answer.reasoning:
        yield line(kind="reasoning", content=answer.reasoning)
    if answer.text:
        yield line(kind="assistant", content=answer.text)
    for call in answer.calls:
        shown = call.input if call.ran_with is None else call.ran_with
        yield line(kind="call", name=call.name, content=shown)
    for call in answer.calls:
        if call.status is not None:
            content = _short(call.output)
            shown = content if call.status == "success" else {"error": content}
            yield line(kind="result", name=call.name, content=shown)


def _short(blocks: list[Any]) -> Any:
    """A result of one text or one value without the block around it."""
    if len(blocks) == 1 and isinstance(blocks[0], dict) and blocks[0].keys() <= {"text", "json"}:
        return blocks[0].get("text", blocks[0].get("json"))
    return blocks


def _compared(one: Sequence[Line], two: Sequence[Line]) -> Iterator[DiffLine]:
    for tag, i, j, k, m in opcodes(list(map(_key, one)), list(map(_key, two))):
        if tag == "equal":
            yield from (_marked("=", line) for line in two[k:m] if line.kind not in ("model", "system"))
        else:
            yield from (_marked("-", line) for line in one[i:j])
            yield from (_marked("+", line) for line in two[k:m])


def _marked(mark: Mark, line: Line) -> DiffLine:
    return DiffLine(mark=mark, agent=line.agent, kind=line.kind, name=line.name, content=line.content)


def _key(line: Line) -> tuple[str, str | None, bytes]:
    return line.kind, line.name, same_form(line.content)
