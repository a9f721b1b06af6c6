"""Past runs as OpenTelemetry spans, by the semantic conventions for generative AI.

A run is one trace: the run, its attempts, their agents, and model and tool calls. The ids come from the
run's, so that a repeated export gives the same spans. Attribute names stand here literally: the conventions
are still in development, and the package of their names drops what it renames.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/ (1.37 and later: messages with parts)
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from runstore import __version__
from runstore.client.records import RunRecord
from runstore.core.folds.trace import Trace, TraceAgent, TraceAttempt, TraceStep

PROVIDER = "strands-agents"  # as in strands' own spans, since strands calls the models
SCOPE = InstrumentationScope("runstore", __version__)
USAGE = {  # the keys are our names
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}

Attributes = dict[str, Any]


def spans_of(
    run: RunRecord, trace: Trace, *, content: bool = True, resource: Resource | None = None
) -> list[ReadableSpan]:
    """The spans of a run that has ended, parents first.

    Args:
        content: also inputs and outputs, of up to 4 KiB each.
    """
    return list(_Spans(run, trace, content, resource or Resource({"service.name": "runstore"})).all())


class _Spans:
    def __init__(self, run: RunRecord, trace: Trace, content: bool, resource: Resource) -> None:
        self._run = run
        self._trace = trace
        self._content = content
        self._resource = resource
        self._end = run.completed_at or run.created_at

    def all(self) -> Iterator[ReadableSpan]:
        run, trace = self._run, self._trace
        attributes: Attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.agent.name": run.agent_name,
            "gen_ai.conversation.id": run.session_id,
            "session.id": run.session_id,
            "user.id": run.user_id,
            "runstore.run.id": run.run_id,
            "runstore.run.status": run.status,
            "runstore.workspace.id": run.workspace_id,
            "runstore.trace.complete": trace.complete,
            **_usage(run.usage),
            **self._messages("input", "user", trace.input),
            **self._messages("output", "assistant", _answer(trace.output)),
        }
        failed = trace.error.message if trace.error is not None else None
        if trace.error is not None:
            attributes["error.type"] = trace.error.code
        name = f"invoke_agent {run.agent_name}"
        yield self._span("run", None, name, attributes, run.created_at, self._end, error=failed)
        for attempt in trace.attempts:
            yield from self._attempt(attempt)

    def _attempt(self, attempt: TraceAttempt) -> Iterator[ReadableSpan]:
        path = f"attempt/{attempt.attempt}"
        attributes: Attributes = {
            "runstore.attempt": attempt.attempt,
            "runstore.attempt.reason": attempt.reason,
            "runstore.worker.id": attempt.worker_id,
        }
        end = attempt.ended_at or self._end
        yield self._span(path, "run", f"attempt {attempt.attempt}", attributes, attempt.started_at, end)
        for number, agent in enumerate(attempt.agents):
            yield from self._agent(f"{path}/{number}", path, agent, end)

    def _agent(self, path: str, parent: str, agent: TraceAgent, end: str) -> Iterator[ReadableSpan]:
        attributes: Attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.agent.name": agent.agent,
            "gen_ai.conversation.id": self._run.session_id,
        }
        begin = agent.started_at or self._run.created_at
        end = agent.ended_at or end
        yield self._span(path, parent, f"invoke_agent {agent.agent}", attributes, begin, end)
        for step in agent.steps:
            yield self._step(f"{path}/{step.seq}/{step.kind}", path, agent, step, begin, end)

    def _step(
        self, path: str, parent: str, agent: TraceAgent, step: TraceStep, begin: str, end: str
    ) -> ReadableSpan:
        make = {"model": self._model, "tool": self._tool, "input": self._input}[step.kind]
        name, attributes = make(step)
        attributes |= {"gen_ai.agent.name": agent.agent, "runstore.seq": step.seq}
        error = None
        if step.status in ("error", "discarded"):
            attributes["error.type"] = step.discarded or "tool_error"
            error = step.discarded or ""
        started_ns = _ns(step.started_at or begin)
        kind = SpanKind.CLIENT if step.kind == "model" else SpanKind.INTERNAL
        events = [
            Event("retry", {key: value for key, value in retry.items() if value is not None}, started_ns)
            for retry in step.retries
        ]
        times = (step.started_at or begin, step.ended_at or end)
        return self._span(path, parent, name, attributes, *times, kind=kind, error=error, events=events)

    def _model(self, step: TraceStep) -> tuple[str, Attributes]:
        return f"chat {step.name}" if step.name else "chat", {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": step.name,
            "gen_ai.server.time_to_first_token": step.first_token_ms,
            **_usage(step.usage),
            **self._messages("input", "user", step.input),
            **self._messages("output", "assistant", step.output),
        }

    def _tool(self, step: TraceStep) -> tuple[str, Attributes]:
        attributes: Attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": step.name,
            "gen_ai.tool.call.id": step.tool_use_id,
            "gen_ai.tool.type": "function",
        }
        if self._content and step.input is not None:
            attributes["gen_ai.tool.call.arguments"] = _json(step.input)
        if self._content and step.output is not None:
            attributes["gen_ai.tool.call.result"] = _json(step.output)
        return f"execute_tool {step.name}", attributes

    def _input(self, step: TraceStep) -> tuple[str, Attributes]:
        return "wait for input", {"runstore.input.request_id": step.name}

    def _messages(self, which: str, role: str, content: Any) -> Attributes:
        """The messages of a call, as the conventions have them."""
        if not self._content or content is None:
            return {}
        message: dict[str, Any] = {"role": role, "parts": _parts(content)}
        if which == "output":
            message["finish_reason"] = "stop"
        return {f"gen_ai.{which}.messages": _json([message])}

    def _span(
        self,
        path: str,
        parent: str | None,
        name: str,
        attributes: Attributes,
        begin: str,
        end: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
        events: Sequence[Event] = (),
    ) -> ReadableSpan:
        start_ns = _ns(begin)
        return ReadableSpan(
            name=name,
            context=self._context(path),
            parent=None if parent is None else self._context(parent),
            resource=self._resource,
            attributes={key: value for key, value in attributes.items() if value is not None},
            events=events,
            kind=kind,
            status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error),
            start_time=start_ns,
            end_time=max(start_ns, _ns(end)),
            instrumentation_scope=SCOPE,
        )

    def _context(self, path: str) -> SpanContext:
        whole = f"{self._run.run_id}/{path}".encode()
        span_id = int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest()) or 1
        return SpanContext(
            UUID(self._run.run_id).int, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
        )


def _usage(usage: Mapping[str, int]) -> Attributes:
    return {USAGE[name]: count for name, count in usage.items() if name in USAGE}


def _answer(output: Any) -> Any:
    """The text of a run's result, if it has one."""
    text = output.get("text") if isinstance(output, dict) else None
    return text if isinstance(text, str) else output


def _parts(content: Any) -> list[dict[str, Any]]:
    """Content blocks as strands has them, or any other input, as parts of a message."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    if not isinstance(content, list):
        return [{"type": "text", "content": _json(content)}]
    return [_part(block) for block in content]


def _part(block: Any) -> dict[str, Any]:
    match block:
        case {"text": str(text)}:
            return {"type": "text", "content": text}
        case {"reasoningContent": {"reasoningText": {"text": str(text)}}}:
            return {"type": "reasoning", "content": text}
        case {"toolUse": {"toolUseId": call_id, "name": name, **rest}}:
            return {"type": "tool_call", "id": call_id, "name": name, "arguments": rest.get("input")}
        case {"toolResult": {"toolUseId": call_id, **rest}}:
            return {"type": "tool_call_response", "id": call_id, "response": rest.get("content")}
    return {"type": "text", "content": _json(block)}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _ns(at: str) -> int:
    """Nanoseconds since 1970 of a time in RFC 3339, exact to the microsecond."""
    moment = datetime.fromisoformat(at)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1_000
