"""Requests for input that have expired: their default is the answer, or their run fails."""

from contextlib import suppress

import structlog

from runstore.core.codec import RecordedEvent
from runstore.core.errors import AppendRefused
from runstore.core.events import Event, Failed
from runstore.core.inputs import INPUTS, answered, fold_inputs
from runstore.core.ports import EventLog

CODE = "input_expired"

log = structlog.get_logger(__name__)


async def expire(event_log: EventLog, run_id: str, now: int) -> None:
    """Close one expired request of a waiting run; the next sweep closes further ones.

    Any number of processes may do this at once: the log takes the append of one.

    Args:
        now: UTC, milliseconds since 1970.
    """
    head = await event_log.head(run_id)
    if head is None or head.closed or head.cancel_requested or head.status != "waiting":
        return
    events: list[RecordedEvent] = []
    while page := await event_log.read(
        run_id, after=events[-1].seq if events else 0, upto=head.seq, only=INPUTS
    ):
        events += page
    inputs = fold_inputs(events)
    for request_id, each in inputs.items():
        expires_at = each.request.expires_at
        if each.given is None and expires_at is not None and expires_at <= now:
            event: Event
            if each.request.default is not None:
                event = answered(inputs, request_id, each.request.default, by=None)
            else:
                event = Failed(code=CODE, message=f"request {request_id} was not answered in time")
            with suppress(AppendRefused):  # another process, or an answer, was first
                await event_log.append(run_id, [event], expected_seq=head.seq)
                log.info("input_expired", run_id=run_id, request=request_id, became=event.type)
            return
