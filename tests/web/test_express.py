"""The express way answers as Flask would, and only where it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from flask import Flask
from werkzeug.test import TestResponse

import settings
from models.kinds import METER, VEHICLE
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
from web import express, ingestion
from web.quota import Quota
from workers import stream
from workers.stream import StreamUnavailable

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


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_both_ways_answer_alike(known: Api, app: Flask, call: Call) -> None:
    quick = told(call(known))
    with mock.patch.object(app.wsgi_app, "_expresses", {}):
        assert told(call(known)) == quick


@pytest.mark.parametrize(
    "name",
    ["one", "lines", "gzip", "rejected in part", "a summary", "a summary that is known"],
)
def test_what_is_asked_often_does_without_flask(known: Api, app: Flask, name: str) -> None:
    with mock.patch.object(app, "full_dispatch_request", side_effect=AssertionError):
        assert CALLS[name](known).status_code in {200, 202, 304}


def test_a_defect_is_told_as_any_other(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ingestion, "judge", mock.Mock(side_effect=ZeroDivisionError))
    refused(api.send(METER, meter_reading()), "INTERNAL_ERROR")


def test_what_was_not_confirmed_is_not_tried_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = mock.Mock(side_effect=StreamUnavailable("gone"))
    monkeypatch.setattr(stream, "append", append)
    before = counted("energy_requests_refused_total", code="STREAM_UNAVAILABLE")
    refused(api.send(METER, meter_reading()), "STREAM_UNAVAILABLE")
    assert append.call_count == 1
    assert counted("energy_requests_refused_total", code="STREAM_UNAVAILABLE") == before + 1


@pytest.mark.parametrize("name", ["one", "no JSON", "no type", "a summary", "another window"])
def test_a_request_counts_once(known: Api, name: str) -> None:
    with mock.patch.object(Quota, "admit") as admit:
        CALLS[name](known)
    assert admit.call_count == 1


def test_a_limit_holds_on_the_express_way(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_REQUESTS_PER_SECOND", "0.2")  # two in a burst
    settings.load.cache_clear()
    accepted(api.send(METER, meter_reading()))
    accepted(api.send(METER, meter_reading()))
    refused(api.send(METER, meter_reading()), "RATE_LIMITED")
    refused(api.get(f"{SUMMARY}/vehicle-001"), "RATE_LIMITED")
    assert waiting() == 2


def test_scopes_hold_on_the_express_way(api: Api, key: MakeKey) -> None:
    reader, sender = (Api(api.client, bearer(key(scope))) for scope in ("read", "ingest"))
    refused(reader.send(METER, meter_reading()), "SCOPE_MISSING")
    refused(sender.get(f"{SUMMARY}/vehicle-001"), "SCOPE_MISSING")


def test_what_has_no_express_is_flasks(app: Flask) -> None:
    def never(_environ: express.Environ, _last: str) -> express.Answer:
        raise AssertionError

    express.install(app, {("GET", "/nowhere"): never})
    assert app.test_client().get("/healthz").status_code == 200
