"""Reservations of a start: every kind of log checks them with the append, and writes both or none."""

import asyncio
from collections.abc import Callable

import pytest

from runstore.core.errors import AlreadyStarted, IdempotencyConflict, LimitExceeded, RunstoreError
from runstore.core.events import Cancelled, Queued
from runstore.core.ids import new_run_id
from runstore.core.ports import EventLog, Reservation
from runstore.eventlog.rules.reservations import KEPT_MS
from runstore.eventlog.sql import SqlEventLog


async def start(log: EventLog, reservation: Reservation) -> str:
    run_id = new_run_id()
    queued = Queued(agent="a", user_id=reservation.user_id, input="hi")
    await log.append(run_id, [queued], expected_seq=0, reservation=reservation)
    return run_id


def with_key(key: str = "k", body: bytes = b"body", user: str = "alice") -> Reservation:
    return Reservation(user, key=key, body_hash=body.ljust(32))


async def outcomes(log: EventLog, reservations: list[Reservation]) -> list[str | BaseException]:
    return await asyncio.gather(
        *(start(log, reservation) for reservation in reservations), return_exceptions=True
    )


async def test_a_key_that_came_before_names_its_run_and_stores_nothing(log: EventLog) -> None:
    run_id = await start(log, with_key())
    with pytest.raises(AlreadyStarted) as refusal:
        await start(log, with_key())
    assert refusal.value.run_id == run_id
    assert len(await log.read_all()) == 1


async def test_a_key_with_another_body_is_a_conflict(log: EventLog) -> None:
    await start(log, with_key(body=b"one"))
    with pytest.raises(IdempotencyConflict):
        await start(log, with_key(body=b"other"))
    assert len(await log.read_all()) == 1


async def test_a_key_belongs_to_its_user(log: EventLog) -> None:
    assert await start(log, with_key(user="alice")) != await start(log, with_key(user="bob"))


async def test_one_of_simultaneous_duplicates_becomes_a_run(log: EventLog) -> None:
    found = await outcomes(log, [with_key()] * 50)
    started = [run_id for run_id in found if isinstance(run_id, str)]
    assert len(started) == 1
    assert {o.run_id for o in found if isinstance(o, AlreadyStarted)} == set(started)
    assert len(await log.read_all()) == 1


async def test_a_key_is_kept_when_its_run_has_ended(log: EventLog) -> None:
    run_id = await start(log, with_key())
    await log.append(run_id, [Cancelled(reason="user")])
    with pytest.raises(AlreadyStarted):
        await start(log, with_key())


async def test_a_key_is_forgotten_after_its_time(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await start(log, with_key())
    monkeypatch.setattr("runstore.eventlog.rules.reservations.KEPT_MS", -1)
    second = await start(log, with_key(body=b"other"))
    assert second != first
    monkeypatch.setattr("runstore.eventlog.rules.reservations.KEPT_MS", KEPT_MS)
    with pytest.raises(AlreadyStarted) as refusal:
        await start(log, with_key(body=b"other"))
    assert refusal.value.run_id == second


async def test_a_start_that_is_refused_keeps_no_key(log: EventLog) -> None:
    full = Reservation("alice", max_active=0, key="k", body_hash=bytes(32))
    with pytest.raises(LimitExceeded):
        await start(log, full)
    await start(log, Reservation("alice", key="k", body_hash=bytes(32)))


async def test_a_users_active_runs_are_bounded(log: EventLog) -> None:
    runs = [await start(log, Reservation("alice", max_active=2)) for _ in range(2)]
    with pytest.raises(LimitExceeded) as refusal:
        await start(log, Reservation("alice", max_active=2))
    assert refusal.value.limit == "runs_per_user"
    await start(log, Reservation("bob", max_active=2))
    await log.append(runs[0], [Cancelled(reason="user")])
    await start(log, Reservation("alice", max_active=2))


async def test_starts_at_the_same_moment_do_not_go_over_the_limit(log: EventLog) -> None:
    found = await outcomes(log, [Reservation("alice", max_active=7)] * 60)
    assert len([run_id for run_id in found if isinstance(run_id, str)]) == 7
    assert all(isinstance(o, LimitExceeded) for o in found if not isinstance(o, str))
    assert len(await log.open_runs()) == 7


async def test_a_used_key_is_answered_also_at_the_limit(log: EventLog) -> None:
    reservation = Reservation("alice", max_active=1, key="k", body_hash=bytes(32))
    await start(log, reservation)
    with pytest.raises(AlreadyStarted):
        await start(log, reservation)


async def test_processes_that_race_for_a_key_or_a_place_are_one_behind_the_other(
    open_log: Callable[..., SqlEventLog],
) -> None:
    logs = [open_log() for _ in range(2)]

    async def race(reservation: Reservation) -> list[str | BaseException]:
        return await asyncio.gather(
            *(start(log, reservation) for log in logs for _ in range(20)), return_exceptions=True
        )

    for reservation, most in ((with_key(), 1), (Reservation("bob", max_active=5), 5)):
        found = await race(reservation)
        assert len([run_id for run_id in found if isinstance(run_id, str)]) == most
        assert all(isinstance(o, str | RunstoreError) for o in found)
