"""The streamed answers of three model providers, by the providers' own documents.

Each protocol makes the parts of a streamed answer, in order, and reads requests. Ollama: docs/api.md of
ollama/ollama. OpenAI: the reference of chat completions, streaming. Anthropic: the reference of messages,
streaming.
"""

import json
from dataclasses import dataclass
from typing import Any, Protocol

INPUT_TOKENS = 11
CACHED_TOKENS = 2  # of a prompt whose model thinks
CREATED = "2026-11-20T10:00:00.000000Z"


@dataclass(frozen=True)
class Answer:
    """A model's answer; `call` is a tool with its arguments."""

    words: tuple[str, ...] = ()
    thoughts: tuple[str, ...] = ()
    call: tuple[str, dict[str, Any]] | None = None


class Wire(Protocol):
    """One provider's protocol."""

    path: str
    content_type: str

    def parts(self, model: str, answer: Answer) -> list[bytes]:
        """The streamed answer, in the pieces that a server would send."""

    def failure(self, status: int) -> dict[str, Any]:
        """The body of an error."""

    def tool_results(self, body: dict[str, Any]) -> list[str]:
        """The texts of the tool results in a request."""


class Ollama:
    path = "/api/chat"
    content_type = "application/x-ndjson"

    def parts(self, model: str, answer: Answer) -> list[bytes]:
        said = [_line(model, content="", thinking=thought) for thought in answer.thoughts]
        said += [_line(model, content=word) for word in answer.words]
        if answer.call:
            name, arguments = answer.call
            call = {"function": {"name": name, "arguments": arguments}}
            said.append(_line(model, content="", tool_calls=[call]))
        ending = {
            "done": True, "done_reason": "stop", "total_duration": 5_000_000, "load_duration": 1_000_000,
            "prompt_eval_count": INPUT_TOKENS, "prompt_eval_duration": 1_000_000,
            "eval_count": len(answer.words), "eval_duration": 3_000_000,
        }  # fmt: skip
        return [*said, _line(model, ending, content="")]

    def failure(self, status: int) -> dict[str, Any]:
        return {"error": _reason(status)}

    def tool_results(self, body: dict[str, Any]) -> list[str]:
        return [message["content"] for message in body["messages"] if message["role"] == "tool"]


class OpenAI:
    path = "/v1/chat/completions"
    content_type = "text/event-stream"

    def parts(self, model: str, answer: Answer) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": thought} for thought in answer.thoughts]
        deltas += [{"content": word} for word in answer.words]
        if answer.call:
            name, arguments = answer.call
            text = json.dumps(arguments)
            first = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
            halves = [{"function": {"arguments": half}} for half in (text[:4], text[4:])]
            deltas += [{"tool_calls": [{"index": 0, **part}]} for part in (first, *halves)]
        reason = "tool_calls" if answer.call else "stop"
        said = [_chunk(model, [{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
        said.append(_chunk(model, [{"index": 0, "delta": {}, "finish_reason": reason}]))
        spent = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": len(answer.words)}
        usage: dict[str, Any] = {**spent, "total_tokens": sum(spent.values())}
        if answer.thoughts:
            usage["prompt_tokens_details"] = {"cached_tokens": CACHED_TOKENS}
            usage["completion_tokens_details"] = {"reasoning_tokens": len(answer.thoughts)}
        return [*said, _chunk(model, [], usage=usage), b"data: [DONE]\n\n"]

    def failure(self, status: int) -> dict[str, Any]:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return {"error": {"message": _reason(status), "type": kind, "param": None, "code": None}}

    def tool_results(self, body: dict[str, Any]) -> list[str]:
        return [_text(message["content"]) for message in body["messages"] if message["role"] == "tool"]


class Anthropic:
    path = "/v1/messages"
    content_type = "text/event-stream"

    def parts(self, model: str, answer: Answer) -> list[bytes]:
        message: dict[str, Any] = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [],
            "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": 1},
        }  # fmt: skip
        if answer.thoughts:
            uncached = INPUT_TOKENS - CACHED_TOKENS
            message["usage"] |= {"input_tokens": uncached, "cache_read_input_tokens": CACHED_TOKENS}
        said = [_event("message_start", message=message), _event("ping")]
        for index, (block, deltas) in enumerate(_blocks(answer)):
            said.append(_event("content_block_start", index=index, content_block=block))
            said += [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
            said.append(_event("content_block_stop", index=index))
        reason = {"stop_reason": "tool_use" if answer.call else "end_turn", "stop_sequence": None}
        said.append(_event("message_delta", delta=reason, usage={"output_tokens": len(answer.words)}))
        return [*said, _event("message_stop")]

    def failure(self, status: int) -> dict[str, Any]:
        kind = {
            401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 500: "api_error",
        }.get(status, "invalid_request_error")  # fmt: skip
        return {"type": "error", "error": {"type": kind, "message": _reason(status)}}

    def tool_results(self, body: dict[str, Any]) -> list[str]:
        blocks = [b for m in body["messages"] if isinstance(m["content"], list) for b in m["content"]]
        return [_text(block["content"]) for block in blocks if block["type"] == "tool_result"]


WIRES: dict[str, Wire] = {"ollama": Ollama(), "openai": OpenAI(), "anthropic": Anthropic()}


def _blocks(answer: Answer) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if answer.thoughts:
        thinking = [{"type": "thinking_delta", "thinking": thought} for thought in answer.thoughts]
        signature = {"type": "signature_delta", "signature": "c2lnbmVk"}
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, [*thinking, signature]))
    if answer.words:
        said = [{"type": "text_delta", "text": word} for word in answer.words]
        blocks.append(({"type": "text", "text": ""}, said))
    if answer.call:
        name, arguments = answer.call
        text = json.dumps(arguments)
        halves = [{"type": "input_json_delta", "partial_json": half} for half in ("", text[:4], text[4:])]
        blocks.append(({"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}, halves))
    return blocks


def _line(model: str, ending: dict[str, Any] | None = None, **message: Any) -> bytes:
    said = {"model": model, "created_at": CREATED, "message": {"role": "assistant", **message}, "done": False}
    return json.dumps({**said, **(ending or {})}).encode() + b"\n"


def _chunk(model: str, choices: list[Any], **more: Any) -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_795_000_000, "model": model}
    return b"data: %b\n\n" % json.dumps({**chunk, "choices": choices, **more}).encode()


def _event(kind: str, **data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **data}).encode())


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def _reason(status: int) -> str:
    reasons = {
        400: "this parameter is not supported", 401: "the key is wrong", 404: "the model does not exist",
        429: "slow down", 500: "an error within",
    }  # fmt: skip
    return reasons[status]
