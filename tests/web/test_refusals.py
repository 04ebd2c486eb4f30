"""Every refusal of a request: produced, of one shape, counted, documented."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from uuid import UUID

import pytest
from werkzeug.exceptions import BadRequest
from werkzeug.test import TestResponse

import settings
from models.kinds import METER, VEHICLE
from stack.ports import free_port
from tests.factories import at, execute, flush_all, meter_reading, vehicle_reading
from tests.web.alarming import alarmed
from tests.web.calls import NDJSON, Api, bearer, counted, encoded, refused, waiting
from tests.web.conftest import MakeKey
from web.refusals import READING_REFUSALS, REQUEST_REFUSALS

ONE = encoded(meter_reading())
DOCS = Path(__file__).parents[2] / "docs" / "refusals.md"


def set_env(monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings.load.cache_clear()


def short(api: Api) -> TestResponse:
    return api.client.post(
        "/ingestion/meter",
        data=ONE,
        content_type="application/json",
        headers=api.headers,
        environ_overrides={"CONTENT_LENGTH": "999"},
    )


def in_chunks(api: Api, body: bytes, content_type: str, **headers: str) -> TestResponse:
    """Sent without a Content-Length, as the HTTP server hands on what came in chunks."""
    return api.client.post(
        "/ingestion/meter",
        input_stream=io.BytesIO(body),
        content_type=content_type,
        headers=api.headers | headers,
        environ_overrides={"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
    )


def raising(api: Api, error: Exception) -> TestResponse:
    """What an address answers whose code raises `error`."""

    def view() -> str:
        raise error

    api.client.application.add_url_rule("/raises", view_func=view)
    return api.get("/raises")


def acknowledged_twice(api: Api) -> TestResponse:
    alarmed(api)
    path = "/v1/alarms/1/acknowledge"
    assert api.post(path, {}).status_code == 200
    return api.post(path, {})


def assigned_twice(api: Api) -> TestResponse:
    api.send(METER, meter_reading())
    api.send(VEHICLE, vehicle_reading())
    flush_all()
    pair = {"vehicleId": "vehicle-001", "meterId": "meter-001", "from": at(0)}
    assert api.post("/v1/meter-assignments", pair).status_code == 201
    return api.post("/v1/meter-assignments", pair | {"from": at(5)})


HOOKS = {"url": "https://93.184.216.34/hook"}


def twenty_webhooks(api: Api) -> TestResponse:
    for _ in range(20):
        assert api.post("/v1/webhooks", HOOKS).status_code == 201
    return api.post("/v1/webhooks", HOOKS)


def disabled_webhook(api: Api) -> TestResponse:
    made = api.post("/v1/webhooks", HOOKS).json["id"]
    execute("UPDATE webhook_endpoints SET disabled_at = now()")
    return api.post(f"/v1/webhooks/{made}/test", {})


def never_sent(api: Api) -> TestResponse:
    made = api.post("/v1/webhooks", HOOKS).json["id"]
    return api.post(f"/v1/webhooks/{made}/deliveries/{UUID(int=0)}/redeliver", {})


#: Code -> what a caller does to be refused with it.
SIMPLE: dict[str, Callable[[Api], TestResponse]] = {
    "MALFORMED_JSON": lambda api: api.send(METER, b"{"),
    "NOT_UTF8": lambda api: api.send(METER, b"\xff"),
    "BAD_GZIP": lambda api: api.send(METER, gzip.compress(ONE)[:-1], Content_Encoding="gzip"),
    "BODY_INCOMPLETE": short,
    "KEY_MISSING": lambda api: Api(api.client, {}).send(METER, ONE),
    "KEY_INVALID": lambda api: Api(api.client, bearer("eie_00000000_x")).send(METER, ONE),
    "LENGTH_REQUIRED": lambda api: in_chunks(api, ONE, NDJSON),
    "NOT_FOUND": lambda api: api.get("/v2"),
    "UNKNOWN_DEVICE": lambda api: api.get("/v1/meters/meter-404/status"),
    "METHOD_NOT_ALLOWED": lambda api: api.get("/ingestion/meter"),
    "UNSUPPORTED_MEDIA_TYPE": lambda api: api.send(METER, ONE, content_type="text/plain"),
    "UNSUPPORTED_ENCODING": lambda api: api.send(METER, ONE, Content_Encoding="br"),
    "EMPTY_BATCH": lambda api: api.send(METER, b"[]"),
    "NO_VALID_READING": lambda api: api.send(METER, b"{}"),
    "BAD_QUERY": lambda api: api.get("/v1/meters", limit=0),
    "BAD_FIELD": lambda api: api.patch("/v1/meters/meter-404", {"maxPowerKw": "much"}),
    "UNKNOWN_ASSIGNMENT": lambda api: api.delete("/v1/meter-assignments/1"),
    "ASSIGNMENT_OVERLAPS": assigned_twice,
    "UNKNOWN_ALARM": lambda api: api.get("/v1/alarms/1"),
    "ALARM_STATE": acknowledged_twice,
    "UNKNOWN_WEBHOOK": lambda api: api.delete("/v1/webhooks/1"),
    "UNKNOWN_DELIVERY": never_sent,
    "TOO_MANY_WEBHOOKS": twenty_webhooks,
    "WEBHOOK_DISABLED": disabled_webhook,
    "WEBHOOK_TARGET_REFUSED": lambda api: api.post("/v1/webhooks", {"url": "http://127.0.0.1/"}),
    "BAD_REQUEST": lambda api: raising(api, BadRequest()),
    "INTERNAL_ERROR": lambda api: raising(api, ZeroDivisionError()),
}
#: Code -> (the settings under which it is the answer, what is sent).
UNDER_SETTINGS: dict[str, tuple[dict[str, str], Callable[[Api], TestResponse]]] = {
    "BODY_TOO_LARGE": ({"MAX_BODY_BYTES": "10"}, lambda api: api.send(METER, ONE)),
    "TOO_MANY_READINGS": (
        {"MAX_BATCH_READINGS": "1"},
        lambda api: api.send(METER, [meter_reading(), meter_reading()]),
    ),
    "RATE_LIMITED": (
        {"KEY_REQUESTS_PER_SECOND": "0.01"},  # a bucket for a tenth of a request: one, then debt
        lambda api: (api.get("/v1/meters"), api.get("/v1/meters"))[1],
    ),
    "BACKLOG_FULL": ({"BACKLOG_MAX_ENTRIES": "0"}, lambda api: api.send(METER, ONE)),
    "STREAM_UNAVAILABLE": (
        {"STREAM_URL": f"redis://127.0.0.1:{free_port()}/0"},
        lambda api: api.send(METER, ONE),
    ),
    "DATABASE_UNAVAILABLE": (
        {"DATABASE_URL": f"postgresql://127.0.0.1:{free_port()}/energy"},
        lambda api: api.get("/v1/meters"),
    ),
}


@pytest.mark.parametrize("code", SIMPLE)
def test_a_refusal_has_its_code_and_is_counted(admin: Api, code: str) -> None:
    before = counted("energy_requests_refused_total", code=code)
    refused(SIMPLE[code](admin), code)
    assert counted("energy_requests_refused_total", code=code) == before + 1
    assert waiting() == 0


@pytest.mark.parametrize("code", UNDER_SETTINGS)
def test_a_refusal_under_a_setting_has_its_code_and_is_counted(
    api: Api, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    env, act = UNDER_SETTINGS[code]
    with monkeypatch.context() as patched:
        set_env(patched, **env)
        before = counted("energy_requests_refused_total", code=code)
        refused(act(api), code)
        assert counted("energy_requests_refused_total", code=code) == before + 1
    settings.load.cache_clear()
    assert waiting() == 0


def test_a_key_for_something_else_is_refused_and_counted(api: Api, key: MakeKey) -> None:
    before = counted("energy_requests_refused_total", code="SCOPE_MISSING")
    reader = Api(api.client, bearer(key("read")))
    problem = refused(reader.send(METER, ONE), "SCOPE_MISSING")
    assert problem["detail"] == "This needs a key with the scope ingest."
    assert counted("energy_requests_refused_total", code="SCOPE_MISSING") == before + 1


def test_what_shows_its_own_end_may_come_in_chunks(api: Api) -> None:
    assert in_chunks(api, ONE, "application/json").status_code == 202
    packed = in_chunks(api, gzip.compress(ONE), NDJSON, **{"Content-Encoding": "gzip"})
    assert packed.status_code == 202


def test_every_code_of_a_request_is_produced_here() -> None:
    assert {*SIMPLE, *UNDER_SETTINGS, "SCOPE_MISSING"} == REQUEST_REFUSALS.keys()


def test_a_defect_shows_nothing_of_itself(api: Api) -> None:
    response = raising(api, RuntimeError("a password"))
    assert "password" not in response.text
    assert "Traceback" not in response.text


def test_a_refusal_of_the_method_lists_the_others(api: Api) -> None:
    for path in ("/ingestion/meter", "/ingestion/vehicle"):
        response = api.get(path)
        refused(response, "METHOD_NOT_ALLOWED")
        assert "POST" in response.headers["Allow"]
    response = api.client.delete("/v1/meters", headers=api.headers)
    refused(response, "METHOD_NOT_ALLOWED")
    assert {"GET", "HEAD"} <= {*response.headers["Allow"].split(", ")}


def test_a_key_is_asked_for_by_name(api: Api) -> None:
    for code in ("KEY_MISSING", "KEY_INVALID"):
        assert SIMPLE[code](api).headers["WWW-Authenticate"] == "Bearer"


def test_retry_after_is_spread_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    set_env(monkeypatch, BACKLOG_MAX_ENTRIES="0")
    waits = {int(api.send(METER, ONE).headers["Retry-After"]) for _ in range(40)}
    assert len(waits) > 2
    assert all(1 <= seconds <= 30 for seconds in waits)


# --- docs/refusals.md -----------------------------------------------------------------------------


def sections() -> dict[str, str]:
    """Heading -> what stands under it."""
    parts = re.split(r"^### (.+)\n", DOCS.read_text(), flags=re.MULTILINE)[1:]
    assert len(parts[::2]) == len(set(parts[::2])), "one heading per code"
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_code_is_documented_and_every_documented_code_exists() -> None:
    assert sections().keys() == REQUEST_REFUSALS.keys() | READING_REFUSALS.keys()


@pytest.mark.parametrize("code", REQUEST_REFUSALS)
def test_the_docs_tell_a_sender_the_status_and_what_to_do(code: str) -> None:
    status, _ = REQUEST_REFUSALS[code]
    again = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    what_to_do = "send again" if again else "correct"
    assert sections()[code].lstrip().startswith(f"`{status}`, {what_to_do}. ")


def test_a_code_has_one_meaning() -> None:
    assert REQUEST_REFUSALS.keys() & READING_REFUSALS.keys() == {"MALFORMED_JSON"}
