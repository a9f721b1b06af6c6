"""Submitted Python as an agent of a run. This side is trusted: it reads what the code's process says."""

import codecs
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from runstore.core.codec import MAX_EVENT_BYTES, TOO_DEEP, RecordedEvent
from runstore.core.errors import AgentError, EventTooDeep
from runstore.core.events import AgentFinished, AgentStarted
from runstore.core.ports import AgentResult, RunContext, RunRecorder
from runstore.runtime.code.process import MIB, CodeLimits, CodeProcess
from runstore.runtime.code.runner import RECORD
from runstore.runtime.generator_agent import event_of
from runstore.runtime.result_text import MAX_RESULT_BYTES, text_result

MAX_LINE = 16_384  # characters of text that become one token; a longer line becomes several
MIN_OUTPUT_BYTES = 64  # that an event counts for: a million empty lines are not nothing


class Submitted(Struct, frozen=True, forbid_unknown_fields=True):
    """The input of a run of code."""

    code: str
    input: Any = None


class Record(Struct, frozen=True):
    """What the runner says beside text: an event, or the result."""

    event: Any = UNSET
    result: Any = UNSET


class CodeAgent:
    """Runs the code in a process of its own, without anything of ours in it.

    What it prints becomes `llm.token`, a line each; what it emits becomes an event, and what its function
    `run` returns the result.
    """

    def __init__(self, limits: CodeLimits, context: RunContext) -> None:
        self._limits = limits
        self._name = context.agent_name
        self._process: CodeProcess | None = None

    async def run(self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder) -> AgentResult:
        """See `Agent.run`.

        Raises:
            AgentError: the code failed, or took more than it may.
        """
        submitted = _submitted(input)
        await recorder.record(AgentStarted(agent=self._name))
        process = self._process = CodeProcess(submitted.code, submitted.input, self._limits)
        try:
            result = await self._follow(process, recorder)
            if status := await process.ended():
                raise _failure(status, process.last_errors(), self._limits)
        finally:
            process.close()
            await recorder.record(AgentFinished(agent=self._name))
        return AgentResult(result=result, usage={})

    def cancel(self) -> None:
        """End the code at once: it cannot know how to."""
        if self._process is not None:
            self._process.kill()

    async def _follow(self, process: CodeProcess, recorder: RunRecorder) -> dict[str, Any]:
        """Record what it says until it has ended; returns its result."""
        output, room = Output(), self._limits.output_mb * MIB
        said: list[str] = []
        returned: Any = UNSET
        ended = False
        while not ended:
            read = await process.read()
            ended = not read
            for item in output.feed(read):
                room -= max(item.size, MIN_OUTPUT_BYTES)
                if room < 0:
                    message = f"the code said more than {self._limits.output_mb} MiB"
                    raise AgentError(message, code="output_limit")
                if item.record is UNSET or item.record.event is not UNSET:
                    content = item.text if item.record is UNSET else item.record.event
                    await recorder.record(event_of(content, self._name, "the code emitted"))
                    said += [content] if isinstance(content, str) else []
                else:
                    returned = item.record.result
        return _result(returned, said)


class Item(Struct, frozen=True):
    """One thing that was said. `size`: its bytes, about."""

    size: int
    text: str = ""
    record: Record | UnsetType = UNSET


class Output:
    """Text and records (RFC 7464), as they come out of the bytes of a process."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[Item]:
        """What is whole by now; without more data, also what is not.

        Raises:
            AgentError: a record is too large, or none.
            EventTooDeep
        """
        text = self._rest + self._decoder.decode(data, final=not data)
        start = 0
        while start < len(text):
            end = self._end(text, start, last=not data)
            if end is None:
                break
            yield _item(text[start:end])
            start = end
        self._rest = text[start:]

    def _end(self, text: str, start: int, *, last: bool) -> int | None:
        line = text.find("\n", start) + 1
        if text[start] == RECORD:
            if not line and len(text) - start > MAX_EVENT_BYTES:
                raise AgentError(f"the code emitted more than {MAX_EVENT_BYTES:,} bytes at once")
            return line or (len(text) if last else None)
        record = text.find(RECORD, start, line or len(text))
        end = record if record >= 0 else line
        if not end:
            end = len(text) if last or len(text) - start >= MAX_LINE else 0
        return min(end, start + MAX_LINE) or None


def _item(said: str) -> Item:
    if not said.startswith(RECORD):
        return Item(len(said), said)
    try:
        return Item(len(said), record=msgspec.json.decode(said[1:], type=Record))
    except RecursionError as error:
        raise EventTooDeep(TOO_DEEP.format("what the code emitted")) from error
    except msgspec.MsgspecError as error:
        raise AgentError(f"the code emitted what is no JSON: {error}", code="code_failed") from error


def _submitted(input: Any) -> Submitted:
    try:
        return msgspec.convert(input, Submitted)
    except msgspec.ValidationError as error:
        message = f"the input of this agent must be code and its input: {error}"
        raise AgentError(message, code="invalid_input") from error


def _result(returned: Any, said: list[str]) -> dict[str, Any]:
    if isinstance(returned, dict):
        return returned
    if returned is None or returned is UNSET:
        return text_result("".join(said)[: MAX_RESULT_BYTES + 1])
    return text_result(returned) if isinstance(returned, str) else {"value": returned}


def _failure(status: int, errors: str, limits: CodeLimits) -> AgentError:
    """Why the code did not come to its end: it tells itself, on standard error, or its exit code does."""
    last = errors.rpartition("\n")[2]
    if status == -signal.SIGXCPU:
        return AgentError(f"the code computed for more than {limits.cpu_s} s", code="cpu_limit")
    if last.startswith("MemoryError"):
        return AgentError(f"the code needed more than {limits.memory_mb} MiB", code="memory_limit")
    how = f"exit code {status}" if status > 0 else f"signal {-status}"
    return AgentError(errors or f"the code's process ended with {how}", code="code_failed")
