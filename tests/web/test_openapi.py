"""The document says what the API does: every route, every answer; /docs works without a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from marshmallow import RAISE, Schema
from werkzeug.test import TestResponse

from models.kinds import METER, VEHICLE
from tests.factories import at, flush_all, meter_reading, register, roll_up, vehicle_reading
from tests.web.alarming import alarmed
from tests.web.calls import JSON, NDJSON, Api
from web.alarms import (
    AlarmSchema,
    AlarmWithEvidenceSchema,
    ReplaySchema,
    RulesSchema,
    TransitionSchema,
)
from web.answers import (
    DEVICE,
    STORED,
    AssignmentSchema,
    DailySchema,
    EnergySchema,
    FleetSchema,
    PerformanceSchema,
    RatingSchema,
    page_of,
)
from web.openapi import IngestedSchema, ProblemSchema
from web.refusals import REQUEST_REFUSALS
from web.webhooks import DeliverySchema, RegisteredWebhookSchema, WebhookEventSchema, WebhookSchema


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.content_type.startswith("application/json")
    return response.json


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield path, method, operation


def documented(rule: str) -> str:
    """A rule of Flask's as OpenAPI spells it."""
    return re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", rule)


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["$ref"]] if "$ref" in node else []
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from references(child)


def resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


# --- the document ---------------------------------------------------------------------------------


def test_it_is_openapi_3_1_and_complete(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"].keys() >= {"title", "version", "description"}
    for reference in references(document):
        assert resolve(document, {"$ref": reference})
    for path, _, operation in operations(document):
        assert operation["summary"], path
        assert operation["responses"], path
        assert operation["tags"], path


def test_every_route_of_the_api_is_in_it(app: Flask, document: dict[str, Any]) -> None:
    routes = {
        (documented(rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(("/ingestion/", "/v1/"))
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert {(path, method) for path, method, _ in operations(document)} == routes


def test_every_path_parameter_is_described(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        named = {p["name"] for p in item.get("parameters", []) if p["in"] == "path"}
        assert named == {*re.findall(r"{(\w+)}", path)}


def test_every_operation_needs_a_bearer_key(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"] == {
        "key": {"type": "http", "scheme": "bearer"}
    }
    assert document["security"] == [{"key": []}]
    assert all("security" not in operation for _, _, operation in operations(document))


def test_readings_may_come_in_both_media_types(document: dict[str, Any]) -> None:
    for kind in (METER, VEHICLE):
        body = document["paths"][f"/ingestion/{kind}"]["post"]["requestBody"]
        assert body["required"]
        assert body["content"].keys() == {JSON, NDJSON}
        one, many = body["content"][JSON]["schema"]["oneOf"]
        reading = resolve(document, one)
        assert many == {"type": "array", "items": one}
        fields = {kind.id_field, "timestamp", *(m.field for m in kind.measures)}
        assert reading["properties"].keys() == {*reading["required"]} == fields
        assert reading["additionalProperties"] is False
        for measure in kind.measures:
            limits = reading["properties"][measure.field]
            assert (limits["minimum"], limits["maximum"]) == (measure.low, measure.high)


def test_its_examples_are_accepted(api: Api, document: dict[str, Any]) -> None:
    for kind in (METER, VEHICLE):
        body = document["paths"][f"/ingestion/{kind}"]["post"]["requestBody"]
        assert api.send(kind, body["content"][JSON]["example"]).status_code == 202


def test_every_refusal_is_a_problem(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        responses = operation["responses"]
        assert "default" in responses, (path, method)
        for status, response in responses.items():
            if status in {"200", "201", "202", "204"}:
                continue
            (content,) = resolve(document, response)["content"].items()
            assert content[0] == "application/problem+json", (path, status)
            problem = resolve(document, content[1]["schema"])
            assert problem["properties"]["code"]["enum"] == sorted(REQUEST_REFUSALS)


# --- the answers ----------------------------------------------------------------------------------

WINDOW = {"from_at": at(0).isoformat(), "to_at": at(24).isoformat()}
PERFORMANCE, METERS, VEHICLES = "/v1/analytics/performance", "/v1/meters", "/v1/vehicles"
ASSIGNMENTS = "/v1/meter-assignments"
#: Method and route -> (the schema it documents, a call that shows something).
ANSWERS: dict[str, tuple[type[Schema], Callable[[Api], TestResponse]]] = {
    "POST /ingestion/meter": (IngestedSchema, lambda api: api.send(METER, [meter_reading(), {}])),
    "POST /ingestion/vehicle": (IngestedSchema, lambda api: api.send(VEHICLE, vehicle_reading())),
    f"GET {PERFORMANCE}": (
        page_of("Page", PerformanceSchema),
        lambda api: api.get(PERFORMANCE, limit=1),
    ),
    f"GET {PERFORMANCE}/<vehicle_id>": (
        PerformanceSchema,
        lambda api: api.get(f"{PERFORMANCE}/vehicle-001"),
    ),
    f"GET {PERFORMANCE}/<vehicle_id>/daily": (
        DailySchema,
        lambda api: api.get(f"{PERFORMANCE}/vehicle-001/daily", days=2),
    ),
    "GET /v1/analytics/fleet": (FleetSchema, lambda api: api.get("/v1/analytics/fleet")),
    f"POST {ASSIGNMENTS}": (
        AssignmentSchema,
        lambda api: api.post(
            ASSIGNMENTS, {"vehicleId": "vehicle-x", "meterId": "meter-001", "from": at(0)}
        ),
    ),
    f"GET {ASSIGNMENTS}": (
        page_of("Page", AssignmentSchema),
        lambda api: api.get(ASSIGNMENTS, limit=1),
    ),
}
ALARM = "/v1/alarms/<int(max=9223372036854775807):alarm_id>"
ANSWERS |= {
    "GET /v1/alarms": (page_of("Page", AlarmSchema), lambda api: api.get("/v1/alarms")),
    f"GET {ALARM}": (AlarmWithEvidenceSchema, lambda api: api.get("/v1/alarms/1")),
    f"POST {ALARM}/acknowledge": (
        AlarmSchema,
        lambda api: api.post("/v1/alarms/1/acknowledge", {"note": "Seen."}),
    ),
    f"POST {ALARM}/shelve": (
        AlarmSchema,
        lambda api: api.post(
            "/v1/alarms/1/shelve",
            {"note": "Parts ordered.", "until": datetime.now(UTC) + timedelta(days=1)},
        ),
    ),
    f"POST {ALARM}/unshelve": (
        AlarmSchema,
        lambda api: api.post("/v1/alarms/1/unshelve", {}),
    ),
    f"POST {ALARM}/resolve": (AlarmSchema, lambda api: api.post("/v1/alarms/1/resolve", {})),
    f"GET {ALARM}/history": (
        page_of("Page", TransitionSchema),
        lambda api: api.get("/v1/alarms/1/history"),
    ),
    "GET /v1/analytics/rules": (RulesSchema, lambda api: api.get("/v1/analytics/rules")),
    "GET /v1/analytics/rules/replay": (
        ReplaySchema,
        lambda api: api.get("/v1/analytics/rules/replay", floorPct=80),
    ),
}
HOOK = {"url": "https://93.184.216.34/"}
HOOKS = "/v1/webhooks"
_ONE_HOOK = f"{HOOKS}/<int(max=2147483647):webhook_id>"


def _webhook(api: Api) -> str:
    """The address of a webhook to which a test event is on its way."""
    path = f"{HOOKS}/{api.post(HOOKS, HOOK).json['id']}"
    api.post(f"{path}/test", {})
    return path


def _redelivered(api: Api) -> TestResponse:
    path = f"{_webhook(api)}/deliveries"
    event_id = api.get(path).json["items"][0]["eventId"]
    return api.post(f"{path}/{event_id}/redeliver", {})


ANSWERS |= {
    f"POST {HOOKS}": (RegisteredWebhookSchema, lambda api: api.post(HOOKS, HOOK)),
    f"GET {HOOKS}": (page_of("Page", WebhookSchema), lambda api: api.get(HOOKS, limit=1)),
    f"POST {_ONE_HOOK}/test": (
        WebhookEventSchema,
        lambda api: api.post(f"{_webhook(api)}/test", {}),
    ),
    f"GET {_ONE_HOOK}/deliveries": (
        page_of("Page", DeliverySchema),
        lambda api: api.get(f"{_webhook(api)}/deliveries", limit=1),
    ),
    f"POST {_ONE_HOOK}/deliveries/<uuid:event_id>/redeliver": (WebhookEventSchema, _redelivered),
}
for _kind, _path in ((METER, METERS), (VEHICLE, VEHICLES)):
    _device = f"{_path}/{_kind}-001"
    ANSWERS |= {
        f"GET {_path}": (
            page_of("Page", DEVICE[_kind]),
            lambda api, path=_path: api.get(path, limit=1),
        ),
        f"PATCH {_path}/<device_id>": (
            RatingSchema,
            lambda api, path=_device: api.patch(path, {"maxPowerKw": 22}),
        ),
        f"GET {_path}/<device_id>/status": (
            STORED[_kind],
            lambda api, path=_device: api.get(f"{path}/status"),
        ),
        f"GET {_path}/<device_id>/telemetry": (
            page_of("Page", STORED[_kind]),
            lambda api, path=_device: api.get(f"{path}/telemetry", **WINDOW, limit=1),
        ),
        f"GET {_path}/<device_id>/energy": (
            EnergySchema,
            lambda api, path=_device: api.get(f"{path}/energy", **WINDOW),
        ),
    }


@pytest.fixture
def two_vehicles(admin: Api) -> Api:
    """Two vehicles with a day of readings, and two meters of which one serves the first."""
    for number in ("001", "x"):
        for kind in (METER, VEHICLE):
            samples = [(at(hour), 100 + hour) for hour in range(25)]
            device = {kind.id_field: f"{kind}-{number}"}
            admin.send(kind, register(kind, samples, **device))
    flush_all()
    roll_up()
    alarmed(admin)
    return admin


def test_every_route_has_an_answer_to_be_looked_at(app: Flask) -> None:
    routes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(("/ingestion/", "/v1/"))
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    answerless = {route for route in routes if route.startswith("DELETE ")}
    assert routes - answerless == {*ANSWERS}


def test_every_answer_fits_its_schema(two_vehicles: Api) -> None:
    for route, (schema, call) in ANSWERS.items():
        response = call(two_vehicles)
        assert response.status_code in {200, 201, 202}, route
        assert response.content_type == JSON
        loaded = schema().load(response.json, unknown=RAISE)
        assert loaded.get("items", [1]), route


def test_a_performance_to_come_fits_its_schema(api: Api) -> None:
    api.send(VEHICLE, vehicle_reading())
    flush_all()
    answer = api.get(f"{PERFORMANCE}/vehicle-001").json
    assert PerformanceSchema().load(answer, unknown=RAISE)["reason"] == "NOT_COMPUTED_YET"


def test_every_answer_has_the_fields_that_the_document_requires(
    two_vehicles: Api, document: dict[str, Any]
) -> None:
    for route, (_, call) in ANSWERS.items():
        method, rule = route.split(" ")
        operation = document["paths"][documented(rule)][method.lower()]
        response = call(two_vehicles)
        content = operation["responses"][str(response.status_code)]["content"][JSON]
        schema = resolve(document, content["schema"])
        assert response.json.keys() == {*schema["required"]} == {*schema["properties"]}


def test_every_refusal_fits_its_schema(api: Api) -> None:
    for response in (
        api.send(METER, b"{"),
        api.send(METER, b"{}"),
        api.send(METER, [{}, 5]),
        api.get("/v1/meters", limit=0, x=1),
        api.get("/nowhere"),
        api.client.get("/v1/meters"),
    ):
        assert ProblemSchema().load(response.json, unknown=RAISE)


# --- /docs ----------------------------------------------------------------------------------------


def test_the_docs_page_needs_nothing_from_elsewhere(client: FlaskClient) -> None:
    page = client.get("/docs")
    assert page.content_type.startswith("text/html")
    assert re.findall(r"<script(?![^>]*\bsrc=)", page.text) == [], (
        "our policy forbids inline scripts"
    )
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(needed) >= 3
    for path in needed:
        assert path.startswith("/docs/")
        with client.get(path) as file:
            assert file.status_code == 200, path
    started = client.get("/docs/start.js").text
    assert '"/openapi.json"' in started
    assert "http" not in started


def test_the_docs_serve_their_own_files_and_no_others(client: FlaskClient) -> None:
    for name in ("../__init__.py", "%2e%2e/__init__.py", "..%2f__init__.py", "nothing.js", ""):
        assert client.get(f"/docs/assets/{name}").status_code == 404


# --- headers --------------------------------------------------------------------------------------


def test_every_kind_of_answer_has_the_security_headers(app: Flask, two_vehicles: Api) -> None:
    app.view_functions["meters.listed"] = lambda: 1 / 0
    api = two_vehicles
    performance = f"{PERFORMANCE}/vehicle-001"
    etag = {"If-None-Match": api.get(performance).headers["ETag"]}
    answers = {
        200: api.get(performance),
        202: api.send(METER, meter_reading()),
        304: api.get(performance, headers=etag),
        400: api.send(METER, b"{"),
        401: api.client.get("/v1/vehicles"),
        404: api.get("/nowhere"),
        405: api.get("/ingestion/meter"),
        422: api.send(METER, b"{}"),
        500: api.get("/v1/meters"),
        503: api.get("/readyz"),
    }
    pages = [api.client.get(path) for path in ("/docs", "/docs/start.js", "/metrics", "/healthz")]
    with api.client.get("/docs/assets/swagger-ui.css") as file:
        pages.append(file)
    for response in [*answers.values(), *pages]:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "same-origin"
        policy = response.headers["Content-Security-Policy"]
        is_page = response.mimetype == "text/html"
        expected = ["default-src 'self'", "object-src 'none'", "base-uri 'none'"]
        for part in expected if is_page else ["default-src 'none'", "frame-ancestors 'none'"]:
            assert part in policy
        assert "script-src" not in policy, "scripts only from here, none inline"
        assert response.headers["Cache-Control"]
    assert {status: response.status_code for status, response in answers.items()} == {
        status: status for status in answers
    }


def test_data_is_not_kept_by_caches_on_the_way(two_vehicles: Api) -> None:
    for route, (_, call) in ANSWERS.items():
        kept = call(two_vehicles).headers["Cache-Control"]
        assert kept == ("private, max-age=5" if route.endswith("<vehicle_id>") else "no-store")
