"""Servers in trouble: 202 is said only when it is true, anything else is 503, soon, never 500."""

from __future__ import annotations

import time
from collections.abc import Iterator

import kombu.pools
import pytest
import redis

import settings
from models import engine
from models.kinds import METER, VEHICLE
from stack import valkey
from stack.ports import free_port
from tests.factories import at, flush_all, meter_reading, rows, vehicle_reading
from tests.web.calls import Api, accepted, counted, refused, waiting
from web import admission
from workers import stream
from workers.celery import app as celery
from workers.stream import Pressure


def set_url(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(name, url)
    settings.load.cache_clear()


def nowhere() -> str:
    return f"redis://127.0.0.1:{free_port()}/0"


@pytest.fixture
def stream_server(
    servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[redis.Redis]:
    """The stream's server, to be mistreated; the door looks at it before every request."""
    monkeypatch.setattr(admission, "LOOK_SECONDS", 0)
    with redis.Redis.from_url(servers["STREAM_URL"]) as server:
        limit = server.config_get("maxmemory")["maxmemory"]
        yield server
        server.config_set("maxmemory", limit)
        server.replicaof("NO", "ONE")


# --- the stream's server --------------------------------------------------------------------------


def test_without_a_stream_nothing_is_promised(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    set_url(monkeypatch, "STREAM_URL", nowhere())
    began = time.monotonic()
    refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
    assert time.monotonic() - began < 2.5


def test_row_05_a_stream_that_goes_away_is_noticed_and_one_that_comes_back_too(
    api: Api, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK_SECONDS", 3600)  # the door has looked just before
    with valkey.temporary(durable=True) as url:
        set_url(monkeypatch, "STREAM_URL", url)
        accepted(api.send(METER, meter_reading()))
    for _ in range(3):
        refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
    set_url(monkeypatch, "STREAM_URL", servers["STREAM_URL"])
    accepted(api.send(METER, meter_reading()))


@pytest.mark.parametrize("looked_seconds_ago", [0.0, 3600.0], ids=["at a look", "at the promise"])
def test_row_07_a_stream_that_hangs_is_given_up_soon(
    api: Api, stream_server: redis.Redis, monkeypatch: pytest.MonkeyPatch, looked_seconds_ago: float
) -> None:
    accepted(api.send(METER, meter_reading()))
    monkeypatch.setattr(admission, "LOOK_SECONDS", looked_seconds_ago)
    stream_server.execute_command("CLIENT", "PAUSE", 2200, "ALL")
    began = time.monotonic()
    refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
    assert time.monotonic() - began < 2.5
    stream_server.ping()  # answers when the pause is over
    accepted(api.send(METER, meter_reading()))


def test_a_stream_that_asks_for_another_password_is_unavailable(
    api: Api, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = servers["STREAM_URL"].replace("redis://:", "redis://:not")
    set_url(monkeypatch, "STREAM_URL", url)
    refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")


def test_a_stream_that_became_a_replica_is_unavailable(
    api: Api, stream_server: redis.Redis
) -> None:
    stream_server.replicaof("127.0.0.1", str(free_port()))
    refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
    stream_server.replicaof("NO", "ONE")
    accepted(api.send(METER, meter_reading()))


def test_row_10_a_stream_that_cannot_write_its_file_is_unavailable(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "pressure", lambda _: Pressure(0, 0.0, writable=False))
    refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
    assert waiting() == 0


# --- full -----------------------------------------------------------------------------------------


def nearly_full(server: redis.Redis, percent: int) -> None:
    server.config_set("maxmemory", server.info("memory")["used_memory"] * 100 // percent)


def test_the_door_closes_before_the_stream_is_full_and_opens_by_itself(
    api: Api, stream_server: redis.Redis
) -> None:
    nearly_full(stream_server, 80)
    problem = refused(api.send(METER, meter_reading()), "BACKLOG_FULL")
    assert problem["detail"].startswith("The stream's memory is ")
    assert waiting() == 0
    nearly_full(stream_server, 40)
    accepted(api.send(METER, meter_reading()))


def test_a_stream_that_fills_up_between_two_looks_promises_nothing(
    api: Api, stream_server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted(api.send(METER, meter_reading()))
    monkeypatch.setattr(admission, "LOOK_SECONDS", 3600)
    stream_server.config_set("maxmemory", 1)
    refused(api.send(METER, meter_reading(timestamp=at(13))), "STREAM_UNAVAILABLE")
    assert waiting() == 1


def test_row_09_a_full_stream_can_be_drained_and_is_open_again(
    api: Api, stream_server: redis.Redis
) -> None:
    flush_all()
    accepted(api.send(METER, meter_reading()))
    stream_server.config_set("maxmemory", 1)
    refused(api.send(METER, meter_reading(timestamp=at(13))), "BACKLOG_FULL")
    flush_all()
    assert waiting() == 0
    stream_server.config_set("maxmemory", 0)
    accepted(api.send(METER, meter_reading(timestamp=at(13))))


def test_only_so_many_requests_wait_and_then_the_door_is_open_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK_SECONDS", 0)
    set_url(monkeypatch, "BACKLOG_MAX_ENTRIES", "2")
    accepted(api.send(METER, [meter_reading(timestamp=at(n)) for n in range(5)]), 5)
    accepted(api.send(VEHICLE, vehicle_reading()))
    problem = refused(api.send(METER, meter_reading()), "BACKLOG_FULL")
    assert problem["detail"] == "2 requests wait to be stored."
    assert waiting() == 2
    flush_all()
    accepted(api.send(METER, meter_reading()))
    assert len(rows("SELECT * FROM meter_telemetry_history")) == 5


def test_the_stream_is_looked_at_a_few_times_a_second_and_not_per_request(
    api: Api, stream_server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK_SECONDS", 3600)
    accepted(api.send(METER, meter_reading()))
    before = stream_server.info("commandstats")["cmdstat_xlen"]["calls"]
    for _ in range(5):
        accepted(api.send(METER, meter_reading()))
    assert stream_server.info("commandstats")["cmdstat_xlen"]["calls"] == before


# --- the broker -----------------------------------------------------------------------------------


@pytest.fixture
def broker(servers: dict[str, str]) -> Iterator[redis.Redis]:
    """The broker's server; connections to it are those of this test."""
    forget_broker_connections()
    with redis.Redis.from_url(servers["CELERY_BROKER_URL"]) as server:
        yield server
    forget_broker_connections()


def forget_broker_connections() -> None:
    kombu.pools.reset()
    celery._after_fork()


def lost() -> float:
    return counted("energy_doorbells_lost_total")


def test_a_doorbell_rings_for_the_first_of_many_requests(api: Api, broker: redis.Redis) -> None:
    for _ in range(5):
        accepted(api.send(METER, meter_reading()))
    assert broker.llen("celery:flush") == 1
    accepted(api.send(VEHICLE, vehicle_reading()))
    assert broker.llen("celery:flush") == 2
    flush_all()  # has heard it
    accepted(api.send(METER, meter_reading()))
    assert broker.llen("celery:flush") == 3


def test_row_08_without_a_broker_readings_are_accepted_and_stored(
    api: Api, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_url(monkeypatch, "CELERY_BROKER_URL", nowhere())
    before, began = lost(), time.monotonic()
    accepted(api.send(METER, meter_reading()))
    assert time.monotonic() - began < 3
    assert lost() == before + 1
    flush_all()  # the sweep rings in its place
    assert len(rows("SELECT * FROM meter_telemetry_history")) == 1


def test_with_a_full_broker_readings_are_accepted(api: Api, broker: redis.Redis) -> None:
    before = lost()
    broker.config_set("maxmemory", 1)
    try:
        accepted(api.send(METER, meter_reading()))
    finally:
        broker.config_set("maxmemory", 0)
    assert lost() == before + 1


# --- PostgreSQL -----------------------------------------------------------------------------------


def test_connections_that_postgresql_closed_are_replaced(api: Api) -> None:
    assert api.get("/v1/meters").status_code == 200
    rows(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND application_name = 'energy'"
    )
    assert api.get("/v1/meters").status_code == 200


@pytest.mark.parametrize("path", ["/v1/meters", "/v1/meters/meter-001/energy"])
def test_a_question_that_takes_too_long_may_be_asked_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    accepted(api.send(METER, meter_reading()))
    flush_all()
    monkeypatch.setitem(engine._SESSION, "statement_timeout", "200ms")
    fresh = engine.engine().url.update_query_dict({"keepalives_count": "9"})
    set_url(monkeypatch, "DATABASE_URL", fresh.render_as_string(hide_password=False))
    with engine.transaction() as conn:
        engine.driver(conn).execute("LOCK TABLE meters, meter_energy_hourly")
        refused(api.get(path), "DATABASE_UNAVAILABLE")
    engine.dispose()


def test_a_busy_pool_may_be_asked_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = engine.engine().pool
    monkeypatch.setattr(pool, "_timeout", 0.05)
    taken = [engine.engine().connect() for _ in range(engine.POOL_SIZE)]
    try:
        refused(api.get("/v1/meters"), "DATABASE_UNAVAILABLE")
    finally:
        for connection in taken:
            connection.close()
    assert api.get("/v1/meters").status_code == 200
