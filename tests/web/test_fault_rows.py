"""Rows of docs/reliability.md that a sender sees."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from flask import Flask
from sqlalchemy.exc import OperationalError

import settings
from models.kinds import METER
from stack.ports import free_port
from tests import proxy
from tests.factories import at, flush_all, meter_reading, rows
from tests.web.calls import JSON, Api, accepted, encoded, refused
from web import admission
from workers import flush, stream

AWAY = (psycopg.OperationalError, OperationalError)


def history() -> list[dict[str, object]]:
    return rows("SELECT recorded_at, kwh_consumed_ac FROM meter_telemetry_history ORDER BY 1")


def test_row_12_a_lost_reply_is_no_promise_and_sending_again_stores_once(
    servers: dict[str, str], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is in the stream, the door does not know it: 503, and the sender tries again."""
    with proxy.before(servers["STREAM_URL"]) as network, monkeypatch.context() as context:
        context.setenv("STREAM_URL", network.url)
        settings.load.cache_clear()
        context.setattr(admission, "LOOK_SECONDS", 3600)
        stream.client().ping()  # connected, so that the next reply is the one to XADD
        api.get("/v1/meters")  # the key is known
        accepted(api.send(METER, meter_reading(timestamp=at(1))))
        network.weather.replies_to_lose = 1
        refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
        accepted(api.send(METER, meter_reading()))
        assert stream.waiting(METER) == 3  # the same reading waits twice
        stream.client().connection_pool.disconnect()
    settings.load.cache_clear()
    flush_all()
    assert history() == [
        {"recorded_at": at(1), "kwh_consumed_ac": 100.5},
        {"recorded_at": at(12), "kwh_consumed_ac": 100.5},
    ]
    assert rows("SELECT * FROM reading_conflicts") == []


def test_row_15_without_postgresql_readings_wait_up_to_the_limit_and_none_is_buried(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted(api.send(METER, meter_reading(timestamp=at(0))))  # the key is known from now on
    monkeypatch.setattr(admission, "LOOK_SECONDS", 0)
    monkeypatch.setenv("BACKLOG_MAX_ENTRIES", "12")
    with monkeypatch.context() as outage:
        outage.setenv("DATABASE_URL", f"postgresql://energy:x@127.0.0.1:{free_port()}/energy")
        settings.load.cache_clear()
        for hour in range(1, 12):
            accepted(api.send(METER, meter_reading(timestamp=at(hour))))
        refused(api.send(METER, meter_reading(timestamp=at(12))), "BACKLOG_FULL")
        for _ in range(10):  # ten sweeps: more than any limit of deliveries
            with pytest.raises(AWAY):
                flush.flush(METER, "test")
    settings.load.cache_clear()
    assert stream.waiting(METER) == 12
    assert flush.flush(METER, "test")["inserted"] == 12
    accepted(api.send(METER, meter_reading(timestamp=at(12))))
    flush_all()
    assert [row["recorded_at"] for row in history()] == [at(hour) for hour in range(13)]
    assert rows("SELECT * FROM dead_letters") == []


def test_row_24_the_same_request_a_hundred_times_at_once_is_one_reading(
    app: Flask, api: Api
) -> None:
    body = encoded(meter_reading())

    def send(_: int) -> int:
        client = app.test_client()  # each thread with its own
        answer = client.post("/ingestion/meter", data=body, content_type=JSON, headers=api.headers)
        return answer.status_code

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(send, range(100))) == [202] * 100
    report = flush_all()["meter"]
    assert (report["inserted"], report["duplicate"], report["conflict"]) == (1, 99, 0)
    assert history() == [{"recorded_at": at(12), "kwh_consumed_ac": 100.5}]
    assert rows("SELECT * FROM reading_conflicts") == []
