"""Requests for input that have expired: their default is the answer, or their run fails."""

from collections.abc import Mapping

import structlog
from msgspec.structs import replace

from runstore.core.codec import EncodedEvent, encode
from runstore.core.errors import AppendRefused
from runstore.core.events import Failed
from runstore.core.inputs import Input, answered
from runstore.core.ports import EventLog
from runstore.runtime.attempts.open_inputs import OpenInputs

CODE = "input_expired"
MAX_APPENDED_BYTES = 4 << 20  # bytes of the default answers of one append; the next sweep gives further ones

log = structlog.get_logger(__name__)


async def expire(event_log: EventLog, run_id: str, now: int) -> None:
    """Give the default answers of a waiting run's expired requests, or fail it if one lacks a default.

    Any number of processes may do this at once: the log takes the append of one.

    Args:
        now: UTC, milliseconds since 1970.
    """
    head = await event_log.head(run_id)
    if head is None or head.closed or head.cancel_requested or head.status != "waiting":
        return
    inputs = await OpenInputs(event_log, run_id).read(head.seq)
    expired = {id: each for id, each in inputs.items() if each.given is None and _is_over(each, now)}
    if not expired:
        return
    events = _closing(inputs, expired)
    try:
        await event_log.append(run_id, events, expected_seq=head.seq)
    except AppendRefused:  # another process, or an answer, was first
        return
    log.info("input_expired", run_id=run_id, requests=[*expired][: len(events)], became=events[0].type)


def _is_over(input: Input, now: int) -> bool:
    return input.request.expires_at is not None and input.request.expires_at <= now


def _closing(inputs: Mapping[str, Input], expired: Mapping[str, Input]) -> list[EncodedEvent]:
    for request_id, each in expired.items():
        if each.request.default is None:
            return [encode(Failed(code=CODE, message=f"request {request_id} was not answered in time"))]
    events: list[EncodedEvent] = []
    after, room = dict(inputs), MAX_APPENDED_BYTES
    for request_id, each in expired.items():
        given = answered(after, request_id, each.request.default, by=None)
        after[request_id] = replace(each, given=given)
        events.append(encode(given))
        room -= len(events[-1].data)
        if room < 0:
            break
    return events
