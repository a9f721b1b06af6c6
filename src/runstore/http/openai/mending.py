"""Repairs invalid fields in a chat's history, which its client cannot repair. Pure.

A client sends its history again with every turn, so a field of a wrong type would end the conversation. Such
fields become null or text. A person's content stays unchanged.
"""

from typing import Any

import msgspec

from runstore.http.openai.input import wrong
from runstore.http.openai.objects import Part


def mended(body: Any) -> Any:
    """The body with its history repaired.

    Raises:
        BadRequest: a part of a person's content has neither a type nor a text.
    """
    messages = body.get("messages") if isinstance(body, dict) else None
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _mend(message, f"messages[{number}].content")
    return body


def _mend(message: dict[str, Any], place: str) -> None:
    if "content" in message:
        match message.get("role"):
            case "assistant":
                message["content"] = _answer(message["content"])
            case "tool" | "function":
                message["content"] = _result(message["content"])
            case _:
                _set_types(message["content"], place)
    if not isinstance(message.get("refusal"), str):
        message["refusal"] = None
    for name in ("name", "tool_call_id"):
        message[name] = _text(message.get(name))
    calls = message.get("tool_calls")
    message["tool_calls"] = [_call(each) for each in (calls if isinstance(calls, list) else [calls])]
    message["function_call"] = _function(message.get("function_call"))


def _answer(content: Any) -> Any:
    """A model's content, without unknown parts."""
    if isinstance(content, list):
        return [part for part in map(_typed, content) if _is_part(part)]
    content = _typed(content)
    return content if _is_part(content) else None


def _result(content: Any) -> Any:
    """A tool's content; values that are not parts become JSON text."""
    if isinstance(content, list):
        return [part if _is_part(part) else _json(part) for part in map(_typed, content)]
    content = _typed(content)
    return content if _is_part(content) else _json(content)


def _set_types(content: Any, place: str) -> None:
    """Set a missing `type` to `text` if the part has a text."""
    if isinstance(content, list):
        for number, part in enumerate(content):
            _set_type(part, f"{place}[{number}]")
    else:
        _set_type(content, place)


def _set_type(part: Any, place: str) -> None:
    if isinstance(part, dict) and "type" not in _typed(part):
        raise wrong(place, """a part needs its `type`, as {"type": "text", "text": "…"}""")


def _typed(part: Any) -> Any:
    if isinstance(part, dict) and "type" not in part and isinstance(part.get("text"), str):
        part["type"] = "text"
    return part


def _is_part(part: Any) -> bool:
    try:
        msgspec.convert(part, str | Part | None)
    except msgspec.ValidationError:
        return False
    return True


def _call(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        return None
    return {
        "id": _text(given.get("id")),
        "function": _function(given.get("function")),
        "custom": _custom(given.get("custom")),
    }


def _function(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        return None
    arguments = given.get("arguments")
    known = isinstance(arguments, str | dict | list)
    return {"name": _text(given.get("name")), "arguments": arguments if known else None}


def _custom(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        return None
    said = given.get("input")
    return {
        "name": _text(given.get("name")),
        "input": said if said is None or isinstance(said, str) else _json(said),
    }


def _text(value: Any) -> str | None:
    """A name or an id. Some clients count their calls, so a number is accepted, too."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
