"""Records tool calls before they run, and their results. A result that is too large fails the tool."""

from typing import Any

import msgspec
from msgspec.structs import replace
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent

from runstore.core.codec import mended, to_json
from runstore.core.content import MEDIA
from runstore.core.errors import InvalidEvent
from runstore.core.events import Place, ToolFailed, ToolFinished, ToolStarted
from runstore.core.masking import without_keys
from runstore.runtime.strands.errors import sentence_of
from runstore.runtime.strands.provider_words import ProviderWords
from runstore.runtime.strands.recorders.closable_recorder import ClosableRecorder
from runstore.runtime.strands.tool_inputs import left_out, why_left_out

OVER = "The run is over."  # the error of agents and tools that would start after recording has ended
BLOCKS = {"text", "json", *MEDIA}  # kinds of blocks in a tool's result


async def write_call(
    recorder: ClosableRecorder,
    event: BeforeToolCallEvent,
    place: Place,
    *,
    once: bool,
) -> None:
    """Commit that an agent calls a tool; cancel the tool if that fails, or its input was left out.

    Args:
        once: the tool may be called at most once.
    """
    path, call_id = place
    use_id, name = event.tool_use["toolUseId"], event.tool_use["name"]
    started = ToolStarted(
        agent=path, call_id=call_id, tool_use_id=use_id, name=name, input=event.tool_use["input"],
        at_most_once=once,
    )  # fmt: skip
    if wrong := await recorder.try_commit(started):
        started = replace(started, input=left_out(name, f"cannot be recorded: {wrong}"))
        await recorder.commit(started)
    if recorder.closed_by is not None:
        event.cancel_tool = OVER  # an unrecorded tool must not run
    elif why := why_left_out(name, started.input):
        event.cancel_tool = why


async def write_result(
    recorder: ClosableRecorder,
    event: AfterToolCallEvent,
    place: Place,
    failure: str | None,
    words: ProviderWords,
) -> None:
    """Commit a tool's result, or an error that says why it cannot be stored.

    Args:
        failure: the code of the failure that ended an agent working for the tool.
        words: texts of the run's model providers, which the tool may quote.
    """
    path, call_id = place
    event.result = words.replaced(_as_recorded(event.result))
    if event.result.get("status") == "error":
        event.result = _without_secrets(event.result, failure)
    name = event.tool_use["name"]
    call: Any = {"agent": path, "call_id": call_id, "tool_use_id": event.tool_use["toolUseId"], "name": name}
    written = ToolFailed if event.result.get("status") == "error" else ToolFinished
    if wrong := await recorder.try_commit(written(**call, output=event.result.get("content"))):
        text = f"Error: the result of tool {name!r} cannot be recorded, and is left out: {wrong}"
        event.result = {**event.result, "status": "error", "content": [{"text": text}]}
        await recorder.commit(ToolFailed(**call, output=event.result["content"]))


def _as_recorded(result: Any) -> Any:
    """A tool's result as the log has it, so that the model gets the same: JSON, and text that is UTF-8.

    Its content becomes a list of blocks that models take. strands checks neither.
    """
    content = result.get("content")
    if content is None:
        content = []
    try:
        return {
            **result,
            "content": [_block(block) for block in (content if isinstance(content, list) else [content])],
        }
    except InvalidEvent:  # the result cannot be recorded either, which fails the tool
        return result


def _block(block: Any) -> Any:
    """A block of a tool's result; media stay bytes."""
    if isinstance(block, str):
        return {"text": mended(block)}
    if not isinstance(block, dict) or not block.keys() & BLOCKS:
        block = {"json": block}
    if "json" in block:
        return {**block, "json": msgspec.json.decode(to_json(block["json"]))}
    if isinstance(block.get("text"), str):
        return {**block, "text": mended(block["text"])}
    return block


def _without_secrets(result: Any, code: str | None) -> Any:
    """A tool's error without secrets. `code`: of its agent's model failure, if that was the cause."""
    if code is not None:
        return {**result, "content": [{"text": f"Agent error: {sentence_of(code)}"}]}
    blocks = [
        {**block, "text": without_keys(block["text"])} if isinstance(block.get("text"), str) else block
        for block in result.get("content") or ()
    ]
    return {**result, "content": blocks}


def runs_again(event: AfterToolCallEvent) -> bool:
    """Whether a hook makes strands discard this result and call the tool again."""
    stopped = event.result.get("cancelled") or event.agent.cancel_signal.is_set()
    return event.retry and not stopped
