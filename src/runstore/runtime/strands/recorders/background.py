"""Tools that strands runs in the background (`Agent(background_tasks=…)`): its tasks are only in memory.

A new attempt lacks them, and its model would wait for results that never come. So a task whose result
is in the log is delivered with it, and any other one as failed, as strands does with a restored session.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runstore.runtime.memory.resume import Conversation
from runstore.runtime.strands.internals import background_of, store_task

LOST = "The task was lost with the process in which it ran."
# How strands acknowledges a call.
_SENT_OFF = re.compile(r"Background task dispatched\.\s+Task ID: (?P<id>\S+)\s+Tool: (?P<name>\S+)")


def give_back(agent: Any, past: Conversation) -> bool:
    """Give an agent the tasks whose results it has not had. Returns whether there are any."""
    background = background_of(agent)
    if background is None:
        return False
    blocks = [block for message in past.messages for block in message.get("content", ())]
    delivered = {block["toolResult"]["toolUseId"] for block in blocks if "toolResult" in block}
    tasks = [task for task in _tasks(blocks, past.results) if task["task_id"] not in delivered]
    for task in tasks:
        store_task(background, task)
    return bool(tasks)


def _tasks(
    blocks: Sequence[Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    for acknowledged in (block["toolResult"] for block in blocks if "toolResult" in block):
        for block in acknowledged["content"]:
            if found := _SENT_OFF.match(block.get("text", "")):
                use_id = acknowledged["toolUseId"]
                task = {"task_id": found["id"], "tool_use_id": use_id, "tool_name": found["name"]}
                yield {**task, "created_at": "", "last_updated_at": "", **_outcome(results.get(use_id))}


def _outcome(result: Mapping[str, Any] | None) -> dict[str, Any]:
    if result is None:
        return {"status": "failed", "error": {"type": "execution_error", "message": LOST}}
    content = {"result": {"content": result["content"]}}
    if result["status"] == "success":
        return {"status": "completed", **content}
    return {"status": "failed", "error": {"type": "tool_error", "message": "The tool failed."}, **content}
