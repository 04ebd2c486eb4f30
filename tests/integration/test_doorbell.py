"""A doorbell is a hint: it arrives on the right queue, and its loss disturbs nobody."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import kombu.pools
import pytest
import redis
from prometheus_client import REGISTRY

import celeryconfig
from models.kinds import METER, VEHICLE
from stack import valkey
from tests.factories import meter_reading, post_to_stream
from workers import doorbell, flush
from workers.celery import app


def forget_connections() -> None:
    doorbell._silent_until = 0.0
    kombu.pools.reset()
    app._after_fork()  # Celery's own way of forgetting its connections


@pytest.fixture(autouse=True)
def _connections_of_this_test(servers: dict[str, str]) -> Iterator[None]:
    forget_connections()
    yield
    forget_connections()


def queued(url: str, queue: str) -> list[dict[str, Any]]:
    prefix = celeryconfig.broker_transport_options["global_keyprefix"]
    with redis.Redis.from_url(url) as broker:
        return [json.loads(message) for message in broker.lrange(f"{prefix}{queue}", 0, -1)]


def lost() -> float:
    return REGISTRY.get_sample_value("energy_doorbells_lost_total") or 0.0


def test_a_ring_asks_for_a_flush_of_its_kind(servers: dict[str, str]) -> None:
    doorbell.ring(VEHICLE)
    (message,) = queued(servers["CELERY_BROKER_URL"], celeryconfig.QUEUE_FLUSH)
    assert message["headers"]["task"] == "flush-readings"
    assert message["headers"]["argsrepr"] == "('vehicle',)"
    assert message["headers"]["expires"]


def test_a_ring_that_finds_every_connection_in_use_costs_a_doorbell() -> None:
    doorbell.ring(METER)
    (pool,) = kombu.pools.producers.values()
    in_use = [pool.acquire(block=True) for _ in range(pool.limit)]
    before = lost()
    doorbell.ring(METER)
    assert lost() == before + 1
    for producer in in_use:
        producer.release()


def test_a_broker_that_is_away_costs_a_doorbell(monkeypatch: pytest.MonkeyPatch) -> None:
    with valkey.temporary() as url:
        pass
    monkeypatch.setenv("CELERY_BROKER_URL", url)
    before = lost()
    doorbell.ring(METER)
    assert lost() == before + 1


def test_a_broker_that_hangs_holds_up_one_ring_for_half_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("CELERY_BROKER_URL", f"redis://127.0.0.1:{deaf.getsockname()[1]}/0")
        before, began = lost(), time.monotonic()
        doorbell.ring(METER)
        held_up = time.monotonic() - began
        doorbell.ring(METER)  # silence: not even tried
    assert doorbell.TIMEOUT_SECONDS <= held_up < 4 * doorbell.TIMEOUT_SECONDS
    assert time.monotonic() - began < held_up + doorbell.TIMEOUT_SECONDS
    assert lost() == before + 2


def test_a_broker_that_is_full_costs_a_doorbell(monkeypatch: pytest.MonkeyPatch) -> None:
    with valkey.temporary(maxmemory="3mb") as url:
        with redis.Redis.from_url(url) as broker:
            for size in (100_000, 1_000, 10):
                fill(broker, size)
        monkeypatch.setenv("CELERY_BROKER_URL", url)
        before = lost()
        doorbell.ring(METER)
        assert lost() == before + 1
        forget_connections()


def fill(broker: redis.Redis, size: int) -> None:
    for n in range(10_000):
        try:
            broker.set(f"{size}-{n}", b"x" * size)
        except redis.exceptions.OutOfMemoryError:
            return


def test_the_sweep_rings_where_something_waits_too_long(
    fleet: int, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flush.sweep_streams() == {"meter": 0, "vehicle": 0}
    assert queued(servers["CELERY_BROKER_URL"], celeryconfig.QUEUE_FLUSH) == []
    post_to_stream(METER, fleet, [meter_reading()])
    assert flush.sweep_streams() == {"meter": 1, "vehicle": 0}
    assert queued(servers["CELERY_BROKER_URL"], celeryconfig.QUEUE_FLUSH) == []  # just come
    monkeypatch.setattr(flush, "LATE_SECONDS", 0.01)
    time.sleep(0.02)
    assert flush.sweep_streams() == {"meter": 1, "vehicle": 0}
    (message,) = queued(servers["CELERY_BROKER_URL"], celeryconfig.QUEUE_FLUSH)
    assert message["headers"]["argsrepr"] == "('meter',)"


def test_the_sweep_tells_how_much_waits_and_for_how_long(fleet: int) -> None:
    flush.sweep_streams()
    assert waiting("meter") == (0, 0)
    post_to_stream(METER, fleet, [meter_reading()])
    flush.sweep_streams()
    entries, seconds = waiting("meter")
    assert entries == 1
    assert 0 <= seconds < 60


def waiting(kind: str) -> tuple[float | None, float | None]:
    labels = {"kind": kind}
    return (
        REGISTRY.get_sample_value("energy_stream_entries", labels),
        REGISTRY.get_sample_value("energy_oldest_waiting_seconds", labels),
    )


def test_the_tasks_do_what_their_names_say(fleet: int) -> None:
    post_to_stream(METER, fleet, [meter_reading()])
    report = app.tasks["flush-readings"].apply(args=("meter",)).get()
    assert report == {
        "kind": "meter",
        "readings": 1,
        "inserted": 1,
        "duplicate": 0,
        "conflict": 0,
        "dead": 0,
        "transactions": 1,
    }
    assert app.tasks["roll-up"].apply().get()["meterHours"] == 1


@pytest.mark.parametrize("outcome", ["inserted", "duplicate", "conflict", "dead"])
def test_every_reading_is_counted_by_what_became_of_it(fleet: int, outcome: str) -> None:
    def counted() -> float:
        labels = {"kind": "meter", "outcome": outcome}
        return REGISTRY.get_sample_value("energy_readings_flushed_total", labels) or 0.0

    flush.flush(METER, "test")
    before = counted()
    one, other, bad = meter_reading(), meter_reading(kwhConsumedAc=7), meter_reading(voltage=-1)
    post_to_stream(METER, fleet, [one, one, other, bad])
    flush.flush(METER, "test")
    assert counted() == before + 1
