"""Reading back a request to a model is bounded, even if a process has written nonsense."""

import pytest

import runstore.store.request_reads as requests
from runstore.core.codec import RecordedEvent, encode
from runstore.core.errors import TooLarge
from runstore.core.events import Event, Message, MessageRange, Request
from runstore.core.model_requests import MAX_MESSAGES, RequestFold
from runstore.core.ports import EventLog
from runstore.store.large_reads import ROW_BYTES
from tests.kit.events import start_run


def said(text: str) -> Message:
    return Message(agent="demo", message={"role": "assistant", "content": [{"text": text}]})


def asked(*ranges: MessageRange) -> Request:
    return Request(agent="demo", messages=list(ranges))


def recorded(seq: int, event: Event) -> RecordedEvent:
    encoded = encode(event)
    return RecordedEvent("run", seq, seq, encoded.type, 1, False, 0, encoded.data)


@pytest.mark.parametrize("count", [3, MAX_MESSAGES * 2 // 3, MAX_MESSAGES + 5])
def test_a_request_that_names_all_messages_again_and_again_has_a_bounded_number(count: int) -> None:
    fold = RequestFold()
    first = fold.add(recorded(1, asked(MessageRange(input=(0, count)))))
    assert first is not None
    assert len(first.messages) == min(count, MAX_MESSAGES)
    everything = MessageRange(last=(0, 10 * MAX_MESSAGES))
    again = fold.add(recorded(2, asked(everything, everything, everything)))
    assert again is not None
    assert len(again.messages) == min(3 * count, MAX_MESSAGES)
    assert again.messages[: len(first.messages)] == first.messages


async def test_many_small_events_count_with_the_memory_that_they_take(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start_run(log)
    await log.append(run_id, [said("x")] * 50)
    seq = await log.append(run_id, [asked(MessageRange(said=(49, 1)))])
    monkeypatch.setattr(requests, "MAX_READ_BYTES", 60 * ROW_BYTES)
    with pytest.raises(TooLarge) as refusal:
        await requests.read_request(log, run_id, 1, reads_session=False)
    assert refusal.value.limit == "request_bytes"
    monkeypatch.undo()
    read = await requests.read_request(log, run_id, 1, reads_session=False)
    assert (read.seq, len(read.messages), read.complete) == (seq, 1, True)
