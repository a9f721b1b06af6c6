"""Repairs invalid fields in a chat's history, which its client cannot repair. Pure.

A client sends its history again with every turn, so a field of a wrong type would end the conversation. Such
fields become null or text. A person's content stays unchanged.
"""

from typing import Any

import msgspec

from runstore.http.openai.objects import Part, ResultPart
from runstore.http.openai.parts import wrong

MAX_SCHEME = 8  # characters; no base64 has a `:`


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


def _mend(message: dict[str, Any], path: str) -> None:
    if "content" in message:
        message["content"] = _flat(message["content"])
        match message.get("role"):
            case "assistant":
                message["content"] = _answer(message["content"])
            case "tool" | "function":
                message["content"] = _result(message["content"])
            case _:
                _mend_parts(message["content"], path)
    for name in ("refusal", "status"):
        if not isinstance(message.get(name), str):
            message[name] = None
    for name in ("name", "tool_name", "tool_call_id"):
        message[name] = _text(message.get(name))
    calls = message.get("tool_calls")
    message["tool_calls"] = [_call(each) for each in (calls if isinstance(calls, list) else [calls])]
    message["function_call"] = _function(message.get("function_call"))


def _flat(content: Any) -> Any:
    """The content with the parts of lists within its list."""
    if not isinstance(content, list):
        return content
    found: list[Any] = []
    left = content[::-1]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left += part[::-1]
        else:
            found.append(part)
    return found


def _answer(content: Any) -> Any:
    """A model's content, without unknown parts."""
    if isinstance(content, list):
        return [part for part in map(_part, content) if _is(part, Part)]
    content = _part(content)
    return content if _is(content, Part) else None


def _result(content: Any, known: Any = Part) -> Any:
    """A tool's content; values that are not parts become JSON text."""
    if isinstance(content, list):
        return [part if _is(part, known) else _json(part) for part in map(_part, content)]
    content = _part(content)
    return content if _is(content, known) else _json(content)


def _mend_parts(content: Any, path: str) -> None:
    """Mend the parts of a person's content, which is never left out."""
    if isinstance(content, list):
        for number, part in enumerate(content):
            _mend_part(part, f"{path}[{number}]")
    else:
        _mend_part(content, path)


def _mend_part(part: Any, path: str) -> None:
    if isinstance(part, dict) and "type" not in _part(part):
        raise wrong(path, """a part needs its `type`, as {"type": "text", "text": "…"}""")


def _part(part: Any) -> Any:
    """A part, with a `type` if it has a text, and with the fields of a call or result repaired."""
    if not isinstance(part, dict):
        return part
    match part.get("type"):
        case "tool_use":
            known = isinstance(part.get("input"), str | dict | list)
            part |= {
                "id": _text(part.get("id")),
                "name": _text(part.get("name")),
                "input": part["input"] if known else None,
            }
        case "tool_result":
            part |= {
                "tool_use_id": _text(part.get("tool_use_id")),
                "content": _result(part.get("content"), ResultPart),
                "is_error": part.get("is_error") is True,
            }
        case "image" if "source" not in part:
            part["source"] = _source(part)
        case "image_url" | "input_image" if "image_url" not in part and isinstance(part.get("url"), str):
            part["image_url"] = part["url"]
        case _ if "type" not in part and isinstance(part.get("text"), str):
            part["type"] = "text"
    return part


def _source(part: dict[str, Any]) -> Any:
    """The source of an image in the forms of LangChain and Vercel's AI SDK; None without a source."""
    given = (part.get(name) for name in ("base64", "data", "image", "url"))
    data = next((each for each in given if isinstance(each, str) and each), None)
    if data is None or ":" in data[:MAX_SCHEME]:
        return data and {"type": "url", "url": data}
    types = (part.get(name) for name in ("mime_type", "mimeType", "mediaType"))
    media_type = next((each for each in types if isinstance(each, str)), "")
    return {"type": "base64", "media_type": media_type, "data": data}


def _is(part: Any, known: Any) -> bool:
    try:
        msgspec.convert(part, str | known | None)
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
        "name": _text(given.get("name")),
        "args": _arguments(given.get("args")),
        "arguments": _arguments(given.get("arguments")),
    }


def _function(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        return None
    return {"name": _text(given.get("name")), "arguments": _arguments(given.get("arguments"))}


def _arguments(given: Any) -> Any:
    return given if isinstance(given, str | dict | list) else None


def _custom(given: Any) -> dict[str, Any] | None:
    if not isinstance(given, dict):
        return None
    arguments = given.get("input")
    return {
        "name": _text(given.get("name")),
        "input": arguments if arguments is None or isinstance(arguments, str) else _json(arguments),
    }


def _text(value: Any) -> str | None:
    """A name or an id. Some clients count their calls, so a number is accepted, too."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
