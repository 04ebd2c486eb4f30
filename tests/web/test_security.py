"""Headers of every answer, and a trace of every change."""

from __future__ import annotations

import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from models.kinds import METER
from tests.factories import at, flush_all, meter_reading
from tests.web.calls import Api, accepted
from tests.web.test_auth import call, rules

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def directives(response: TestResponse) -> dict[str, str]:
    policy = response.headers["Content-Security-Policy"]
    pairs = (part.strip().partition(" ") for part in policy.split(";"))
    return {name: sources for name, _, sources in pairs}


def secure(response: TestResponse) -> None:
    where = f"{response.request.method} {response.request.path} {response.status_code}"
    for name, value in ALWAYS.items():
        assert response.headers.get(name) == value, (where, name)
    assert directives(response)["frame-ancestors"] == "'none'", where
    assert response.headers["Cache-Control"], where
    assert len(response.headers.getlist("Content-Security-Policy")) == 1, where


def test_every_route_answers_with_the_headers_whoever_asks(app: Flask, admin: Api) -> None:
    accepted(admin.send(METER, meter_reading()))
    for rule in [*rules(app), *rules(app, protected=False)]:
        if "<path:" in rule.rule or rule.rule == "/static/<path:filename>":
            continue
        for headers in ({}, admin.headers):
            if rule.methods and "GET" in rule.methods and not rule.arguments:
                secure(admin.client.get(rule.rule, headers=headers))
            else:
                secure(call(admin.client, rule, headers))


def test_refusals_and_defects_carry_them_too(app: Flask, api: Api) -> None:
    app.view_functions["meters.listed"] = lambda: 1 / 0
    for response in (
        api.get("/v1/meters"),  # 500
        api.get("/nowhere"),
        api.get("/ingestion/meter"),
        api.send(METER, b"{"),
        api.send(METER, b"{", content_type="text/html"),
        api.client.get("/docs/assets/nothing.js"),
        api.client.options("/v1/meters"),
    ):
        secure(response)


def test_data_may_load_nothing_and_pages_only_what_is_ours(client: FlaskClient) -> None:
    page = directives(client.get("/docs"))
    assert page["default-src"] == "'self'"
    assert page.get("script-src", "'self'") == "'self'", "no inline script"
    assert page["object-src"] == page["base-uri"] == "'none'"
    assert page["form-action"] == "'self'"
    for path in ("/healthz", "/openapi.json", "/docs/start.js", "/metrics", "/nowhere"):
        assert directives(client.get(path))["default-src"] == "'none'", path


def test_what_belongs_to_a_fleet_is_not_kept_by_anybody_in_between(api: Api) -> None:
    accepted(api.send(METER, meter_reading(timestamp=at(1))))
    flush_all()
    for path in ("/v1/meters", "/v1/meters/meter-001/status"):
        kept = api.get(path).headers["Cache-Control"]
        assert "public" not in kept
        assert {part.strip() for part in kept.split(",")} & {"no-store", "private", "no-cache"}, (
            path
        )
    assert api.send(METER, meter_reading()).headers["Cache-Control"] == "no-store"
    assert api.client.get("/v1/meters").headers["Cache-Control"] == "no-store"  # 401


def test_a_cross_origin_page_is_allowed_nothing(api: Api) -> None:
    response = api.get("/v1/meters", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name, _ in response.headers if name.startswith("Access-Control-")]


def test_changes_are_in_the_log_with_the_key_that_made_them(
    admin: Api, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    accepted(admin.send(METER, meter_reading()))
    flush_all()
    caplog.set_level(logging.INFO)
    assert admin.patch("/v1/meters/meter-001", {"maxPowerKw": 22}).status_code == 200
    assert admin.delete("/v1/meter-assignments/999").status_code == 404
    assert api.patch("/v1/meters/meter-001", {"maxPowerKw": 22}).status_code == 403
    admin.get("/v1/meters")
    changes = [r.msg for r in caplog.records if isinstance(r.msg, dict) and r.msg.get("audit")]
    key_id = admin.headers["Authorization"].split("_")[1]
    assert [(c["method"], c["path"], c["status"], c["key"]) for c in changes] == [
        ("PATCH", "/v1/meters/meter-001", 200, key_id),
        ("DELETE", "/v1/meter-assignments/999", 404, key_id),
    ]
