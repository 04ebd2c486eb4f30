"""The express way answers as Flask would, and only where it should."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from flask import Flask
from werkzeug.test import TestResponse

import settings
from models.kinds import METER, VEHICLE
from models.packed import MIN_READINGS, Packed, as_json
from tests.factories import at, flush_all, meter_reading, roll_up, vehicle_reading
from tests.web.calls import (
    NDJSON,
    Api,
    accepted,
    bearer,
    counted,
    encoded,
    ndjson,
    refused,
    waiting,
)
from tests.web.conftest import MakeKey
from tests.web.rsgi import FrontClient
from web import ingestion, summary
from web.admission import LOOK_SECONDS
from web.errors import PROBLEM_JSON
from web.quota import Quota
from web.rsgi import Asked
from workers import append, stream
from workers.stream import Pressure, StreamUnavailable

SUMMARY = "/v1/analytics/performance"
FUTURE = meter_reading(timestamp="2999-01-01T00:00:00Z")


def again(api: Api, other: str | None = None) -> TestResponse:
    """A reader asks whether the summary that it has is still good."""
    tag = other or api.get(f"{SUMMARY}/vehicle-001").headers["ETag"]
    return api.get(f"{SUMMARY}/vehicle-001", headers={"If-None-Match": tag})


Call = Callable[[Api], TestResponse]
CALLS: dict[str, Call] = {
    "one": lambda api: api.send(METER, meter_reading()),
    "the other kind": lambda api: api.send(VEHICLE, vehicle_reading()),
    "a batch": lambda api: api.send(METER, [meter_reading(), meter_reading(timestamp=at(13))]),
    "lines": lambda api: api.send(METER, ndjson([meter_reading()]), content_type=NDJSON),
    "gzip": lambda api: api.send_gzip(METER, encoded(meter_reading())),
    "a parameter": lambda api: api.send(
        METER, meter_reading(), content_type="Application/JSON; charset=utf-8"
    ),
    "rejected in part": lambda api: api.send(METER, [meter_reading(), FUTURE]),
    "rejected": lambda api: api.send(METER, FUTURE),
    "no JSON": lambda api: api.send(METER, b"{"),
    "no type": lambda api: api.send(METER, b"{}", content_type="text/plain"),
    "no such kind": lambda api: api.send("boat", meter_reading()),
    "a stranger": lambda api: Api(api.client, bearer("eie_0_0")).send(METER, meter_reading()),
    "no key": lambda api: Api(api.client, {}).get(f"{SUMMARY}/vehicle-001"),
    "a summary": lambda api: api.get(f"{SUMMARY}/vehicle-001"),
    "a summary that is known": again,
    "a summary under another tag": lambda api: again(api, other=f'"{"0" * 24}"'),
    "a summary under many tags": lambda api: again(api, other='"a", W/"b"'),
    "any summary": lambda api: again(api, other="*"),
    "a summary to come": lambda api: api.get(f"{SUMMARY}/vehicle-002"),
    "an unknown vehicle": lambda api: api.get(f"{SUMMARY}/vehicle-404"),
    "no vehicle's name": lambda api: api.get(f"{SUMMARY}/vehicle%00"),
    "another window": lambda api: api.get(f"{SUMMARY}/vehicle-001", asOf="2026-01-10T15:00:00Z"),
    "an unlawful window": lambda api: api.get(f"{SUMMARY}/vehicle-001", hours="x"),
    "HEAD": lambda api: api.client.head(f"{SUMMARY}/vehicle-001", headers=api.headers),
    "DELETE": lambda api: api.delete("/ingestion/meter"),
}


@pytest.fixture
def known(api: Api) -> Api:
    """One vehicle has a summary, another has only sent."""
    api.send(METER, meter_reading())
    api.send(VEHICLE, [vehicle_reading(), vehicle_reading(timestamp=at(13))])
    flush_all()
    roll_up(at(24))
    api.send(VEHICLE, vehicle_reading(vehicleId="vehicle-002"))
    flush_all()
    return api


def told(response: TestResponse) -> tuple[Any, ...]:
    """All of an answer that is the same the next time."""
    of_the_moment = {"Date", "Retry-After"}
    headers = {name: value for name, value in response.headers if name not in of_the_moment}
    return response.status, headers, response.get_data()


@pytest.fixture
def quick(front: FrontClient, known: Api) -> Api:
    """The API by the express way."""
    api = Api(front, known.headers)
    accepted(api.send(METER, meter_reading()))
    return api


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_both_ways_answer_alike(known: Api, quick: Api, call: Call) -> None:
    assert told(call(quick)) == told(call(known))


OFTEN = ["one", "the other kind", "a batch", "lines", "a parameter"]
OFTEN += ["a summary", "a summary that is known", "a summary under another tag"]


@pytest.mark.parametrize("name", CALLS)
def test_what_is_asked_often_does_without_flask(quick: Api, app: Flask, name: str) -> None:
    with mock.patch.object(
        app, "full_dispatch_request", side_effect=app.full_dispatch_request
    ) as by:
        CALLS[name](quick)
    assert by.called == (name not in OFTEN)


@pytest.mark.parametrize("way", ["express", "flask"])
def test_batches_wait_by_columns_whichever_way_they_came(known: Api, quick: Api, way: str) -> None:
    flush_all()
    readings = [meter_reading(meterId=f"m{n}") for n in range(MIN_READINGS)]
    for some in (readings[1:], readings):
        accepted((quick if way == "express" else known).send(METER, some), len(some))
    small, large = stream.claim(METER, "test", 10)
    assert [type(small.body), type(large.body)] == [bytes, Packed]
    assert json.loads(as_json(METER, large.body or b"")) == json.loads(encoded(readings))
    assert flush_all()["meter"]["inserted"] == len(readings)  # and the smaller one's again


def test_a_defect_is_told_as_any_other(quick: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "accept_all", mock.Mock(side_effect=ZeroDivisionError))
    refused(quick.send(METER, meter_reading()), "INTERNAL_ERROR")


def test_what_was_not_confirmed_is_not_tried_again(
    quick: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon, late = mock.Mock(side_effect=StreamUnavailable("gone")), mock.Mock()
    monkeypatch.setattr(append, "soon", soon)
    monkeypatch.setattr(stream, "append", late)
    before = counted("energy_requests_refused_total", code="STREAM_UNAVAILABLE")
    refused(quick.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
    assert (soon.call_count, late.call_count) == (1, 0)
    assert counted("energy_requests_refused_total", code="STREAM_UNAVAILABLE") == before + 1


@pytest.mark.parametrize("name", CALLS)
def test_a_request_counts_once(
    quick: Api, known: Api, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("KEY_REQUESTS_PER_SECOND", "1000")
    settings.load.cache_clear()
    with mock.patch.object(Quota, "_use", autospec=True) as used:
        CALLS[name](known)
        lawful = used.call_count
        CALLS[name](quick)
    assert used.call_count == 2 * lawful


def test_a_limit_holds_on_the_express_way(quick: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_REQUESTS_PER_SECOND", "0.2")  # two in a burst
    settings.load.cache_clear()
    before = waiting()
    accepted(quick.send(METER, meter_reading()))
    accepted(quick.send(METER, meter_reading()))
    refused(quick.send(METER, meter_reading()), "RATE_LIMITED")
    refused(quick.get(f"{SUMMARY}/vehicle-001"), "RATE_LIMITED")
    assert waiting() == before + 2


def test_who_is_over_the_limit_is_refused_before_anything_is_read_or_asked(
    quick: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_REQUESTS_PER_SECOND", "0.1")  # one in a burst
    settings.load.cache_clear()
    accepted(quick.send(METER, meter_reading()))
    monkeypatch.setattr(Asked, "read", mock.Mock(side_effect=AssertionError))
    monkeypatch.setattr(summary._trips, "submit", mock.Mock(side_effect=AssertionError))
    refused(quick.send(METER, meter_reading()), "RATE_LIMITED")
    refused(quick.get(f"{SUMMARY}/vehicle-001"), "RATE_LIMITED")


def test_a_ring_that_cannot_be_made_is_no_error(
    quick: Api, front: FrontClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reading is stored; the sweep covers a lost ring."""
    stream.silence_bell(METER)

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(front.loop, "run_in_executor", no_thread)
    accepted(quick.send(METER, meter_reading()))


def test_what_fails_outside_of_flask_is_told_as_a_defect(
    quick: Api, front: FrontClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front.front._flask, "_application", mock.Mock(side_effect=LookupError))
    response = quick.get("/healthz")
    assert (response.status_code, response.json["code"]) == (500, "INTERNAL_ERROR")
    assert response.content_type == PROBLEM_JSON
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_scopes_hold_on_the_express_way(quick: Api, key: MakeKey) -> None:
    reader, sender = (Api(quick.client, bearer(key(scope))) for scope in ("read", "ingest"))
    for _ in range(2):  # a stranger's way, and that of a key that is known
        refused(reader.send(METER, meter_reading()), "SCOPE_MISSING")
        refused(sender.get(f"{SUMMARY}/vehicle-001"), "SCOPE_MISSING")


def test_a_key_that_is_not_right_is_nobodys(quick: Api) -> None:
    for key in ("", "Bearer", "Bearer x", quick.headers["Authorization"][:-1], "Basic eA=="):
        forged = Api(quick.client, {"Authorization": key})
        assert forged.send(METER, meter_reading()).status_code == 401
        assert forged.get(f"{SUMMARY}/vehicle-001").status_code == 401


@pytest.mark.parametrize(
    "pressure",
    [
        Pressure(10**9, 0.0, writable=True),
        Pressure(0, 99.0, writable=True),
        Pressure(0, 0.0, False),
    ],
    ids=["entries", "memory", "cannot write"],
)
def test_a_door_that_is_shut_is_shut_on_the_express_way(
    app: Flask, quick: Api, monkeypatch: pytest.MonkeyPatch, pressure: Pressure
) -> None:
    monkeypatch.setattr(stream, "pressure", lambda _: pressure)
    time.sleep(LOOK_SECONDS)
    quick.send(METER, meter_reading())  # what is known is good enough for this one
    deadline = time.monotonic() + 10
    while app.extensions["energy_admission"]._pressure != pressure:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = waiting()
    assert quick.send(METER, meter_reading()).status_code == 503
    assert waiting() == before


def test_what_has_no_express_is_flasks(front: FrontClient) -> None:
    assert front.get("/healthz").status_code == 200
    assert front.get("/nowhere").status_code == 404
    assert front.get("/docs/assets/swagger-ui.css").get_data().startswith(b".swagger-ui")
