"""The model calls that are under way: when they began, and when they first answered."""

import time
from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.events import Place, Usage

MAX_REASON = 100  # characters of a finish reason


class _OpenCall(Struct):
    """One call. Times: seconds of the monotonic clock."""

    began: float
    first: float | None = None
    finish_reason: str | None = None
    request_id: str | None = None


class OpenCalls:
    """The open model calls of one attempt, each of one agent at one place. Safe to use from any thread."""

    def __init__(self) -> None:
        self._open: dict[Place, _OpenCall] = {}

    def begin(self, place: Place) -> None:
        """The agent at a place calls its model."""
        self._open[place] = _OpenCall(time.monotonic())

    def speak(self, place: Place) -> None:
        """The model answers; only the first time counts."""
        call = self._open.get(place)
        if call is not None and call.first is None:
            call.first = time.monotonic()

    def identify(self, place: Place, request_id: str) -> None:
        """The provider's id of a call that has not been answered yet; others are not the model's."""
        call = self._open.get(place)
        if call is not None and call.first is None:
            call.request_id = request_id

    def finish(self, place: Place, reason: Any) -> None:
        """The model has ended its answer."""
        call = self._open.get(place)
        if call is not None and isinstance(reason, str):
            call.finish_reason = reason[:MAX_REASON]

    def end(self, place: Place) -> dict[str, Any]:
        """Close a call whose provider has reported its usage; return the fields of `llm.usage` about it."""
        call = self._open.pop(place, None)
        if call is None:
            return {}
        times: dict[str, Any] = {"duration_ms": _ms(time.monotonic() - call.began)}
        if call.first is not None:
            times["first_token_ms"] = _ms(call.first - call.began)
        return times | {"finish_reason": call.finish_reason, "request_id": call.request_id}

    def close(self, place: Place) -> None:
        """Close a call that used nothing, or whose provider reports no usage."""
        self._open.pop(place, None)

    def break_off(self, place: Place, model: str | None, *, silent: bool = True) -> list[Usage]:
        """Close a call whose provider could not report its usage.

        Args:
            silent: count the call even if the model has not answered yet.
        """
        call = self._open.get(place)
        if call is None or (call.first is None and not silent):
            self.close(place)
            return []
        path, call_id = place
        usage = Usage(
            agent=path, call_id=call_id, model=model, input_tokens=0, output_tokens=0, incomplete=True
        )
        return [msgspec.structs.replace(usage, **self.end(place))]

    @property
    def places(self) -> list[Place]:
        """The places of the open calls."""
        return list(self._open)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
