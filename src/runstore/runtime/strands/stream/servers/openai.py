"""Mends answers in OpenAI's chat completions before strands reads them.

Servers that speak this protocol say text after the reason for the end, give all tool calls one index, or
leave parts null. strands drops such text, joins such calls, and fails for such parts. It drops refusals, too.
strands' chunks no longer show that, so the client that strands asks is wrapped.
"""

import json
import sys
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.arguments import read_arguments, same_arguments
from runstore.core.depth import check_decodable
from runstore.core.errors import AgentError
from runstore.runtime.strands.stream.end_reasons import COMPLETE
from runstore.runtime.strands.stream.servers.wrapped import Wrapped, until_broken

UNREADABLE = "the model's answer is JSON that cannot be read"
NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
REFUSED = "content_filter"  # why an answer ended that is a refusal; OpenAI says "stop"


def mending(get_client: Callable[..., Any]) -> Callable[..., AbstractAsyncContextManager[Any]]:
    """A method that returns the client, with mended answers."""

    @asynccontextmanager
    async def get_mending_client(self: Any) -> AsyncIterator[Any]:
        async with get_client(self) as client:
            yield _Client(client)

    return get_mending_client


class _Client(Wrapped):
    @property
    def chat(self) -> "_Chat":
        return _Chat(self._wrapped.chat)


class _Chat(Wrapped):
    @property
    def completions(self) -> "_Completions":
        return _Completions(self._wrapped.completions)


class _Completions(Wrapped):
    async def create(self, **request: Any) -> Any:
        answer = await self._wrapped.create(**request)
        if not request.get("stream"):
            return mended_completion(answer)
        return mended_chunks(_chunks(answer))


class _Begun(Wrapped):
    """A response whose body has been read in part."""

    def __init__(self, wrapped: Any, pieces: AsyncIterator[bytes]) -> None:
        super().__init__(wrapped)
        self._pieces = pieces

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        return self._pieces


async def _chunks(answer: Any) -> AsyncIterator[Any]:
    """The chunks of an answer that may be whole.

    Its first byte, after a byte order mark, decides: servers give streams the type of JSON, and OpenAI's SDK
    ignores the type.
    """
    chunks = answer
    if isinstance(answer, sys.modules["openai"].AsyncStream):  # not one that another package has wrapped
        response = answer.response
        pieces = response.aiter_bytes()
        begin = b""
        while BOM_UTF8.startswith(begin) and (piece := await anext(pieces, None)) is not None:
            begin = (begin + piece).removeprefix(BOM_UTF8).lstrip()
        if begin.startswith(b"{"):
            chunks = _unstreamed(begin + b"".join([each async for each in pieces]), response.request)
        else:
            answer.response = _Begun(response, _joined(begin, pieces))
            answer._decoder = _Speaking(answer._decoder)
    async for chunk in chunks:
        yield chunk


class _Speaking(Wrapped):
    """A decoder of server-sent events without those whose data is blank, which keep a connection open."""

    async def aiter_bytes(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for event in self._wrapped.aiter_bytes(pieces):
            if event.data.strip():
                yield event


async def _joined(begin: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for piece in pieces:
        yield piece


class _Function(Struct):
    name: str | None = None
    arguments: Any = None


class _WholeCall(Struct):
    function: _Function | None = None
    id: str | None = None
    index: int | None = None


class _Message(Struct):
    content: Any = None
    refusal: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[_WholeCall] | None = None


class _WholeChoice(Struct):
    message: _Message | None = None
    finish_reason: str | None = None


class _WholeAnswer(Struct):
    choices: list[_WholeChoice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    message: Any = None
    detail: Any = None
    error_msg: Any = None
    msg: Any = None
    base_resp: Any = None
    code: Any = None
    type: Any = None


async def _unstreamed(body: bytes, request: Any) -> AsyncIterator[Any]:
    """The chunks of a whole answer, which some servers send although they are asked for a stream.

    Raises:
        openai.APIError: it is an error, which came with the status of a success.
        AgentError: it cannot be read.
    """
    try:
        answer = _whole_answer(body)
    except (ValueError, RecursionError) as failure:
        raise AgentError(f"{UNREADABLE}: {failure}", code="model_invalid_answer") from failure
    if error := answer.error or _bare_error(answer):
        text = error.get("message") if isinstance(error, dict) else error
        raise sys.modules["openai"].APIError(str(text), request, body=error)
    for choice in (answer.choices or [])[:1]:
        message = choice.message or _Message()
        for index, call in enumerate(message.tool_calls or ()):
            call.index = index
        end = choice.finish_reason or "stop"
        yield SimpleNamespace(
            choices=[SimpleNamespace(index=0, delta=message, finish_reason=end)], usage=None
        )
    usage = None if answer.usage is None else SimpleNamespace(**NO_TOKENS | answer.usage)
    yield SimpleNamespace(choices=[], usage=usage)


def _whole_answer(body: bytes) -> _WholeAnswer:
    check_decodable(body)
    try:
        return msgspec.json.decode(body, type=_WholeAnswer)
    except msgspec.MsgspecError:  # msgspec refuses half of a surrogate pair, which is mended later
        return msgspec.convert(json.loads(body), _WholeAnswer)


async def mended_chunks(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The chunks of a streamed answer. The last one has the reason for the end, and the usage.

    Raises:
        openai.APIError: a chunk is an error.
    """
    calls, refused = ToolCalls(), False
    reason = usage = index = None
    async for chunk in until_broken(chunks, _ends):
        choice = _choice(chunk)
        usage = _usage_in(chunk, choice) or usage
        if choice is None:
            if error := _bare_error(chunk):
                raise sys.modules["openai"].APIError(error["message"], None, body=error)
            continue
        index = choice.index if index is None else index
        if choice.index not in (index, None):
            continue  # another answer, as with the parameter `n`
        if choice.finish_reason:
            reason, choice.finish_reason = choice.finish_reason, None
        if choice.delta is None:
            choice.delta = _delta_of(choice)
        if choice.delta is not None:
            refused |= _mend_refusal(choice.delta)
            calls.mend(choice.delta)
            yield chunk
    nothing = SimpleNamespace(content=None, tool_calls=None)
    last = SimpleNamespace(delta=nothing, finish_reason=_reason(reason, refused=refused))
    yield SimpleNamespace(choices=[last] if reason else [], usage=usage)


def _ends(chunk: Any) -> bool:
    choice = _choice(chunk)
    return choice is not None and bool(choice.finish_reason)


def mended_completion(answer: Any) -> Any:
    """A whole answer."""
    choice = _choice(answer)
    if choice is not None and choice.message is not None:
        refused = _mend_refusal(choice.message)
        choice.finish_reason = _reason(choice.finish_reason or COMPLETE, refused=refused)
    return answer


def _choice(answer: Any) -> Any:
    choices = getattr(answer, "choices", None)
    return choices[0] if choices else None


def _usage_in(chunk: Any, choice: Any) -> Any:
    """A chunk's usage, also where Moonshot and Groq have it."""
    if usage := getattr(chunk, "usage", None):
        return usage
    of_groq = getattr(chunk, "x_groq", None)
    for given in (
        getattr(choice, "usage", None),
        of_groq.get("usage") if isinstance(of_groq, dict) else None,
    ):
        if isinstance(given, dict):
            return SimpleNamespace(**NO_TOKENS | given)
    return None


def _delta_of(choice: Any) -> Any:
    """The delta of a choice that has a whole `message`, or a `text`, instead; None without any."""
    message = getattr(choice, "message", None)
    if message is None and (text := getattr(choice, "text", None)) is not None:
        message = {"content": text}
    try:
        return None if message is None else msgspec.convert(message, _Message)
    except msgspec.ValidationError:
        return None


def _bare_error(answer: Any) -> dict[str, Any] | None:
    """The error in an answer or a chunk that is one, without the object `error` around it."""
    if getattr(answer, "choices", None):
        return None
    found = {name: getattr(answer, name, None) for name in ("code", "type")}
    failed = getattr(answer, "base_resp", None)  # MiniMax's
    if isinstance(failed, dict) and failed.get("status_code"):
        return found | {"message": str(failed.get("status_msg")), "code": failed["status_code"]}
    texts = (getattr(answer, name, None) for name in ("message", "detail", "error_msg", "msg"))
    text = next((each for each in texts if isinstance(each, str) and each), None)
    return None if text is None else found | {"message": text}


def _mend_refusal(message: Any) -> bool:
    """Make a refusal the text of a message or a piece of one. Returns whether there is one."""
    refusal = getattr(message, "refusal", None)
    if isinstance(refusal, str) and refusal:
        if not message.content or isinstance(message.content, str):  # others send a list of parts
            message.content = (message.content or "") + refusal
        return True
    return False


def _reason(reason: str | None, *, refused: bool) -> str | None:
    """The reason for the end. strands itself says "end_turn" for a missing one."""
    reason = "stop" if reason == COMPLETE else reason
    return REFUSED if refused and reason == "stop" else reason


class _Call(Struct):
    """A tool call that has begun. `index`: its own. `first`: its first piece, whose name strands takes.

    `arguments`: those of its pieces that have some.
    """

    index: int
    first: Any
    arguments: list[Any] = []

    @property
    def is_empty(self) -> bool:
        """Whether its arguments are `{}`, which some servers send before those that they mean."""
        return len(self.arguments) == 1 and self.arguments[0].arguments.strip() == "{}"

    @property
    def is_complete(self) -> bool:
        """Whether its arguments are an object. A cheap look first: servers may send thousands of pieces."""
        return (
            bool(self.arguments)
            and self.arguments[-1].arguments.rstrip().endswith("}")
            and _object("".join(each.arguments for each in self.arguments)) is not None
        )

    def is_said_by(self, function: Any) -> bool:
        """Whether a function has its name, and all its arguments."""
        if function.name != self.first.function.name or not self.is_complete:
            return False
        said = _object("".join(each.arguments for each in self.arguments))
        return same_arguments(said, _object(function.arguments or ""))


class ToolCalls:
    """Gives each tool call of an answer an index of its own, and its name and id to its first piece.

    strands looks at the pieces at the end of the answer.
    """

    def __init__(self) -> None:
        self._last: dict[int | None, _Call] = {}  # the server's index → the last call with it
        self._by_id: dict[tuple[int | None, str], _Call] = {}
        self._count = 0

    def mend(self, delta: Any) -> None:
        """Mend the pieces of calls in a delta; a `function_call`, the older form, becomes one."""
        pieces = delta.tool_calls or []
        if not pieces and getattr(delta, "function_call", None) is not None:
            pieces = delta.tool_calls = [SimpleNamespace(index=None, id=None, function=delta.function_call)]
        if not isinstance(pieces, list) or not all(hasattr(each, "function") for each in pieces):
            raise AgentError(
                "the model's answer has tool calls that are not a list", code="model_invalid_answer"
            )
        for piece in pieces:
            self._mend(piece)

    def _mend(self, piece: Any) -> None:
        if piece.function is None:
            piece.function = SimpleNamespace(name=None, arguments=None)
        function = piece.function
        if not isinstance(function.arguments, str | None):  # an object that is not text
            function.arguments = json.dumps(function.arguments)
        index, id, name = piece.index, piece.id, function.name
        known = self._by_id.get((index, id)) if id else None
        if known is not None and name and known.is_said_by(function):
            function.name = function.arguments = None  # the whole call once more, after its pieces
            piece.index = known.index
            return
        has_arguments = bool(function.arguments and function.arguments.strip())
        call = known or self._last.get(index)
        if call is None or (name and _is_another(call, id, name, has_arguments)):
            call = _Call(self._count, piece)
            self._count += 1
        elif name and name != call.first.function.name:  # it comes in pieces, too
            call.first.function.name = (call.first.function.name or "") + name
        call.first.id = call.first.id or id
        if id:
            self._by_id[index, id] = call
        self._last[index] = call
        if has_arguments:
            if call.is_empty:
                call.arguments.pop().arguments = ""
            call.arguments.append(function)
        piece.index = call.index


def _is_another(call: _Call, id: str | None, name: str, has_arguments: bool) -> bool:
    """Whether a piece with a name begins another call than the one with its index."""
    first = call.first
    is_other_name = bool(first.function.name) and name != first.function.name
    if id and first.id:
        if id != first.id:
            return True
        if call.is_empty and not is_other_name:
            return False
    return (has_arguments or is_other_name) and call.is_complete


def _object(text: str) -> dict[str, Any] | None:
    """Arguments; None if they are not complete."""
    try:
        return read_arguments(text)
    except ValueError:
        return None
