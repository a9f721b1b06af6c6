"""Runs submitted Python as an agent. This side is trusted, and parses the output of the code's process."""

import codecs
import json
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from runstore.core.codec import MAX_EVENT_BYTES, TOO_DEEP, RecordedEvent
from runstore.core.depth import check_decodable
from runstore.core.errors import AgentError, EventTooDeep
from runstore.core.events import AgentFinished, AgentStarted
from runstore.core.ports import AgentResult, RunContext, RunRecorder
from runstore.runtime.code.process import MIB, CodeLimits, CodeProcess
from runstore.runtime.code.runner import RECORD
from runstore.runtime.generator_agent import events_of
from runstore.runtime.memory.oversized import MAX_RESULT_BYTES, text_result

MAX_LINE = 16_384  # characters of one token; a longer line becomes several
MIN_OUTPUT_BYTES = 64  # bytes counted for an event at least, so that a million empty lines reach the limit


class Submitted(Struct, frozen=True, forbid_unknown_fields=True):
    """The input of a run of code."""

    code: str
    input: Any = None


class Record(Struct, frozen=True):
    """Output of the runner other than text: an event, or the result."""

    event: Any = UNSET
    result: Any = UNSET


class CodeAgent:
    """Runs the code in a process of its own that holds no objects of the server.

    Each printed line becomes an `llm.token`, each emitted item an event, and the return value of the code's
    function `run` the result.
    """

    def __init__(self, limits: CodeLimits, context: RunContext) -> None:
        self._limits = limits
        self._name = context.agent_name
        self._process: CodeProcess | None = None

    async def run(self, input: Any, history: Sequence[RecordedEvent], recorder: RunRecorder) -> AgentResult:
        """See `Agent.run`.

        Raises:
            AgentError: the code failed or exceeded a limit.
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
        """Kill the code at once, as it has no way to stop."""
        if self._process is not None:
            self._process.kill()

    async def _follow(self, process: CodeProcess, recorder: RunRecorder) -> dict[str, Any]:
        """Record the code's output until it ends; return its result."""
        output, room = Output(), self._limits.output_limit_mb * MIB
        texts: list[str] = []
        returned: Any = UNSET
        ended = False
        while not ended:
            read = await process.read()
            ended = not read
            for item in output.feed(read):
                room -= max(item.size, MIN_OUTPUT_BYTES)
                if room < 0:
                    message = f"the code wrote more than {self._limits.output_limit_mb} MiB"
                    raise AgentError(message, code="output_limit")
                if item.record is UNSET or item.record.event is not UNSET:
                    content = item.text if item.record is UNSET else item.record.event
                    for event in events_of(content, self._name, "the code emitted"):
                        await recorder.record(event)
                    texts += [content] if isinstance(content, str) else []
                else:
                    returned = item.record.result
        return _result(returned, texts)


class Item(Struct, frozen=True):
    """One piece of output. `size`: its bytes, approximately."""

    size: int
    text: str = ""
    record: Record | UnsetType = UNSET


class Output:
    """Splits a process's output into text and records (RFC 7464)."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> Iterator[Item]:
        """The items that are complete; without data, at the end of the output, also the incomplete one.

        Raises:
            AgentError: a record is too large or malformed.
            EventTooDeep: a record is nested too deeply.
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


def _item(text: str) -> Item:
    if not text.startswith(RECORD):
        return Item(len(text), text)
    try:
        return Item(len(text), record=_record(text[1:]))
    except RecursionError as error:
        raise EventTooDeep(TOO_DEEP.format("what the code emitted")) from error
    except msgspec.MsgspecError as error:
        raise AgentError(f"the code emitted invalid JSON: {error}", code="code_failed") from error


def _record(text: str) -> Record:
    check_decodable(text.encode(errors="replace"))
    try:
        return msgspec.json.decode(text, type=Record)
    except msgspec.MsgspecError:
        try:  # msgspec refuses half of a surrogate pair, which the recorder knows what to do with
            return msgspec.convert(json.loads(text, parse_constant=_refused), Record)
        except ValueError:
            pass
        raise


def _refused(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _submitted(input: Any) -> Submitted:
    try:
        return msgspec.convert(input, Submitted)
    except msgspec.ValidationError as error:
        message = f"the input of this agent must be code and its input: {error}"
        raise AgentError(message, code="invalid_input") from error


def _result(returned: Any, texts: list[str]) -> dict[str, Any]:
    if isinstance(returned, dict):
        return returned
    if returned is None or returned is UNSET:
        return text_result("".join(texts)[: MAX_RESULT_BYTES + 1])
    return text_result(returned) if isinstance(returned, str) else {"value": returned}


def _failure(status: int, errors: str, limits: CodeLimits) -> AgentError:
    """Why the code failed, from its standard error or its exit code."""
    last = errors.rpartition("\n")[2]
    if status == -signal.SIGXCPU:
        return AgentError(f"the code computed for more than {limits.cpu_limit_s} s", code="cpu_limit")
    if last.startswith("MemoryError"):
        return AgentError(f"the code needed more than {limits.memory_limit_mb} MiB", code="memory_limit")
    how = f"exit code {status}" if status > 0 else f"signal {-status}"
    return AgentError(errors or f"the code's process ended with {how}", code="code_failed")
