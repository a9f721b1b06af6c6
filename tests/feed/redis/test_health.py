"""That Redis is lost, and that it is back, is said once each."""

import pytest
import structlog

import runstore.feed.redis.health as redis_health
from runstore.feed.redis.health import RedisHealth


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure ends with the first success."""
    monkeypatch.setattr(redis_health, "SETTLED_S", 0.0)


def events(lines: list[dict[str, object]]) -> list[object]:
    return [line["event"] for line in lines]


def test_it_is_connected_when_it_was_asked_and_did_not_fail() -> None:
    health = RedisHealth()
    assert not health.connected
    health.well("reader")
    assert health.connected
    health.lost("publisher", "no")
    assert not health.connected
    assert health.failed("publisher")
    assert not health.failed("reader")


@pytest.mark.usefixtures("settled")
def test_that_several_lose_it_is_one_line_and_that_all_have_it_back_another() -> None:
    health = RedisHealth()
    with structlog.testing.capture_logs() as lines:
        for user in ("reader", "publisher", "reader"):
            health.lost(user, "gone")
        health.well("reader")
        assert events(lines) == ["redis_lost"]
        health.well("publisher")
        health.well("publisher")
    assert events(lines) == ["redis_lost", "redis_back"]
    assert (lines[0]["part"], lines[0]["error"]) == ("reader", "gone")
    assert health.connected
    assert health.reconnects == 2


def test_a_redis_that_fails_at_every_other_try_is_not_reported_as_back() -> None:
    health = RedisHealth()
    with structlog.testing.capture_logs() as lines:
        for _ in range(50):
            health.lost("publisher", "full")
            health.well("publisher")
    assert events(lines) == ["redis_lost"]
    assert not health.connected
